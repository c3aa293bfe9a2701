//! Handing cases to worker processes: one that panics, faults or hangs is one failure.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use conformance::worker::Worker;

/// A case that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Each case's result.
pub fn run(arguments: &[&str], names: &[String], jobs: usize) -> Vec<Result<(), String>> {
    let results = Mutex::new(vec![Err("not run".to_string()); names.len()]);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(names.len()).max(1) {
            scope.spawn(|| {
                let mut worker = None;
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(name) = names.get(i) else { return };
                    let result = one(&mut worker, arguments, name);
                    if result.is_err() {
                        worker = None;
                    }
                    results.lock().expect("no thread panics holding it")[i] = result;
                }
            });
        }
    });
    results.into_inner().expect("no thread panics holding it")
}

fn one(worker: &mut Option<Worker>, arguments: &[&str], name: &str) -> Result<(), String> {
    let worker = match worker {
        Some(worker) => worker,
        None => {
            let started = Worker::start(arguments);
            worker.insert(started.map_err(|e| format!("no worker process can be started: {e}"))?)
        }
    };
    worker.send(name).map_err(|e| format!("the worker process has ended: {e}"))?;
    match worker.line(LIMIT) {
        Ok(line) if line == "pass" => Ok(()),
        Ok(why) => Err(why),
        Err(RecvTimeoutError::Timeout) => Err(format!("no end after {} s", LIMIT.as_secs())),
        Err(RecvTimeoutError::Disconnected) => Err("the worker process ended".into()),
    }
}
