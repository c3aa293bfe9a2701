//! Handing layers to worker processes, and noting what becomes of them.
//!
//! A kernel that faults ends its worker's context, and one that hangs is ended with its worker:
//! the candidate is a failure, and a fresh worker goes on with the next one.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use conformance::worker::Worker;
use tobiuo::console;

use crate::report::{Failure, Report};
use crate::unit::Unit;
use crate::worker::Event;

/// A candidate that is compiled and run for longer hangs.
const CANDIDATE_LIMIT: Duration = Duration::from_secs(90);
/// A layer whose reference takes longer is a mistake.
const REFERENCE_LIMIT: Duration = Duration::from_secs(400);

/// How a unit's processing ended.
enum End {
    Done,
    /// Go on in a fresh worker from this goal and candidate.
    Again(usize, usize),
    /// Noted as broken, and the worker has ended.
    Broken,
    /// Nothing more can be had of it.
    GivenUp(String),
    TimeUp,
}

/// Checks all units on `jobs` workers; what is not done by the deadline is counted as left.
pub fn run(
    units: Vec<Unit>,
    jobs: usize,
    device: usize,
    deadline: Instant,
    report: &Mutex<Report>,
) {
    let total = units.len();
    let queue = Mutex::new(VecDeque::from(units));
    let finished = Mutex::new(0usize);
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(total).max(1) {
            scope.spawn(|| {
                let mut worker = None;
                let lock = "no thread panics holding it";
                loop {
                    let Some(mut unit) = queue.lock().expect(lock).pop_front() else { return };
                    let end = one(&mut worker, &unit, device, deadline, report);
                    if !matches!(end, End::Done) {
                        worker = None;
                    }
                    let mut report = report.lock().expect(lock);
                    match end {
                        End::Done | End::Broken => {}
                        End::Again(goal, candidate) => {
                            unit.begin = (goal, candidate);
                            queue.lock().expect(lock).push_front(unit);
                            continue;
                        }
                        End::GivenUp(why) => report.broken(&unit, why),
                        End::TimeUp => {
                            report.left += 1 + queue.lock().expect(lock).drain(..).count();
                            return;
                        }
                    }
                    let mut finished = finished.lock().expect(lock);
                    *finished += 1;
                    report.layer_done(&unit);
                    if finished.is_multiple_of(10) || *finished == total {
                        console::say(format_args!(
                            "{finished} of {total} layers, {}",
                            report.line()
                        ));
                    }
                }
            });
        }
    });
}

fn one(
    worker: &mut Option<Worker>,
    unit: &Unit,
    device: usize,
    deadline: Instant,
    report: &Mutex<Report>,
) -> End {
    if Instant::now() >= deadline {
        return End::TimeUp;
    }
    let worker = match worker {
        Some(worker) => worker,
        None => match Worker::start(["--worker", "--device", &device.to_string()]) {
            Ok(started) => worker.insert(started),
            Err(e) => return End::GivenUp(format!("no worker process could be started: {e}")),
        },
    };
    let line = serde_json::to_string(unit).expect("units are plain data");
    if let Err(e) = worker.send(&line) {
        return End::GivenUp(format!("the worker process ended: {e}"));
    }
    let mut at: Option<(usize, usize, String)> = None;
    let mut broken = false;
    loop {
        let limit = if at.is_some() { CANDIDATE_LIMIT } else { REFERENCE_LIMIT };
        let until = (Instant::now() + limit).min(deadline);
        let wait = until.saturating_duration_since(Instant::now());
        let text = match worker.line(wait) {
            Ok(text) => text,
            Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => return End::TimeUp,
            Err(RecvTimeoutError::Disconnected) if broken => return End::Broken,
            Err(e) => {
                let why = match e {
                    RecvTimeoutError::Timeout => format!("no end after {} s", limit.as_secs()),
                    RecvTimeoutError::Disconnected => "the worker process ended".to_string(),
                };
                let Some((goal, candidate, label)) = at else { return End::GivenUp(why) };
                let failure = Failure::of(unit, unit.goals[goal], &label, why);
                report.lock().expect("no thread panics holding it").failed(failure);
                return End::Again(goal, candidate + 1);
            }
        };
        let Ok(event) = serde_json::from_str::<Event>(&text) else {
            return End::GivenUp(format!("the worker process said: {text}"));
        };
        let mut report = report.lock().expect("no thread panics holding it");
        match event {
            Event::Start { goal, candidate, label } => at = Some((goal, candidate, label)),
            Event::Passed { error } => {
                let Some((goal, _, label)) = &at else { continue };
                report.passed(unit, unit.goals[*goal], label, error);
            }
            Event::Failed { why, fault } => {
                let Some((goal, candidate, label)) = &at else { continue };
                report.failed(Failure::of(unit, unit.goals[*goal], label, why));
                if fault {
                    return End::Again(*goal, candidate + 1);
                }
            }
            Event::Broken { why } => {
                broken = true;
                report.broken(unit, why);
            }
            Event::Done { reference, compile, run } => {
                report.seconds(reference, compile, run);
                return End::Done;
            }
        }
    }
}
