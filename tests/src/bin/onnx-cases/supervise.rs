//! Handing cases to worker processes: one that panics, faults or hangs is one failure.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use conformance::worker::Worker;
use tobiuo::console;

use crate::Options;

/// How often it is told how far things are.
const TOLD: Duration = Duration::from_secs(10);

/// What is done.
struct Done {
    results: Vec<Result<(), String>>,
    count: usize,
    failed: usize,
    told: Instant,
}

/// Each case's result.
pub fn run(
    device: &str,
    arguments: &[&str],
    names: &[String],
    o: &Options,
) -> Vec<Result<(), String>> {
    let begun = Instant::now();
    let results = vec![Err("not run".to_string()); names.len()];
    let done = Mutex::new(Done { results, count: 0, failed: 0, told: begun });
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..o.jobs.min(names.len()).max(1) {
            scope.spawn(|| {
                let mut worker = None;
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(name) = names.get(i) else { return };
                    let result = one(&mut worker, arguments, name, o.limit);
                    if result.is_err() {
                        worker = None;
                    }
                    let mut done = done.lock().expect("no thread panics holding it");
                    done.count += 1;
                    done.failed += usize::from(result.is_err());
                    done.results[i] = result;
                    if done.told.elapsed() >= TOLD {
                        done.told = Instant::now();
                        let (count, failed, all) = (done.count, done.failed, names.len());
                        let seconds = begun.elapsed().as_secs();
                        console::say(format_args!(
                            "{device}: {count} of {all} run, {failed} fail; {seconds} s"
                        ));
                    }
                }
            });
        }
    });
    done.into_inner().expect("no thread panics holding it").results
}

fn one(
    worker: &mut Option<Worker>,
    arguments: &[&str],
    name: &str,
    limit: Duration,
) -> Result<(), String> {
    let worker = match worker {
        Some(worker) => worker,
        None => {
            let started = Worker::start(arguments);
            worker.insert(started.map_err(|e| format!("no worker process can be started: {e}"))?)
        }
    };
    worker.send(name).map_err(|e| format!("the worker process has ended: {e}"))?;
    match worker.line(limit) {
        Ok(line) if line == "pass" => Ok(()),
        Ok(why) => Err(why),
        Err(RecvTimeoutError::Timeout) => Err(format!("no end after {} s", limit.as_secs())),
        Err(RecvTimeoutError::Disconnected) => Err("the worker process ended".into()),
    }
}
