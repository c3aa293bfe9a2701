//! Workers, each with a context of its own, that classify batches of pictures.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tobiuo::manifest::Task;
use tobiuo::pipeline::Classification;
use tobiuo::{
    ContextOptions, Engine, Error, ErrorKind, ExecutionContext, Preprocessor, ViewData, ViewDataMut,
};

use crate::feed::{Feed, Job};
use crate::options::Options;

/// What a network says of a picture.
pub struct Answer {
    pub name: String,
    /// The class it should be, where that is known.
    pub wanted: Option<usize>,
    /// Classes, best first.
    pub best: Vec<Classification>,
    /// True where `wanted` is among the five best, however many are asked for.
    pub in_five: bool,
}

impl Answer {
    /// `picture`, `classes` [{`class`, `name` (or null), `score`}], and `wanted` where it is known.
    pub fn to_json(&self, names: &[String]) -> Value {
        let classes = self.best.iter().map(
            |b| json!({ "class": b.class, "name": names.get(b.class as usize), "score": b.score }),
        );
        let mut line = json!({ "picture": self.name, "classes": classes.collect::<Value>() });
        if let Some(wanted) = self.wanted {
            line["wanted"] = json!(wanted);
        }
        line
    }
}

/// What all workers did.
pub struct Report {
    pub device: String,
    pub streams: usize,
    pub batch: usize,
    pub pictures: usize,
    pub seconds: f64,
    /// Mean time of a batch, ns: inputs in host memory to outputs in host memory.
    pub with_copies: f64,
    /// Mean time of the network alone by the device's own clock, ns; none on the CPU, where
    /// nothing is copied.
    pub without_copies: Option<f64>,
    /// Pictures whose class is known, of these right at once, and right among five.
    known: [usize; 3],
}

impl Report {
    /// Pictures a second, decoding and all.
    pub fn rate(&self) -> f64 {
        self.pictures as f64 / self.seconds.max(1e-9)
    }

    /// Shares of right answers at once and among five, where classes are known.
    pub fn accuracy(&self) -> Option<[f64; 2]> {
        let [known, first, five] = self.known.map(|n| n as f64);
        (known > 0.0).then_some([first / known, five / known])
    }

    /// The same as a document.
    pub fn to_json(&self) -> Value {
        let accuracy = self.accuracy();
        json!({
            "device": self.device,
            "streams": self.streams,
            "batch": self.batch,
            "pictures": self.pictures,
            "seconds": self.seconds,
            "pictures_per_second": self.rate(),
            "batch_us": self.with_copies / 1e3,
            "batch_us_without_copies": self.without_copies.map(|ns| ns / 1e3),
            "top1": accuracy.map(|a| a[0]),
            "top5": accuracy.map(|a| a[1]),
        })
    }
}

/// Times of a worker's runs.
#[derive(Clone, Copy, Default)]
struct Times {
    runs: u32,
    with_copies: Duration,
    without_copies: Option<Duration>,
}

impl Times {
    /// Of a sum over all runs the mean, ns.
    fn mean(&self, sum: Duration) -> f64 {
        sum.as_nanos() as f64 / f64::from(self.runs.max(1))
    }
}

/// One worker's own.
struct Worker<'e> {
    context: ExecutionContext,
    preprocessor: Preprocessor,
    /// The picture input and the classes' output, by their places.
    input: usize,
    output: usize,
    /// What the input held before a run, which may overwrite it.
    kept: Vec<f32>,
    times: Times,
    options: &'e Options,
}

impl<'e> Worker<'e> {
    fn new(engine: &Engine, options: &'e Options) -> Result<Worker<'e>, Error> {
        let no = |what: &str| {
            let path = engine.file().path().display();
            Error::new(ErrorKind::Unsupported, format!("{path}: {what}"))
        };
        let manifest = engine.manifest();
        let Some(preprocess) = &manifest.preprocess else {
            return Err(no("no input is known to be a picture; build it with --task classify"));
        };
        let output = match &manifest.task {
            Task::Classify { output } => *output,
            _ => return Err(no("it is no classifier; build it with --task classify")),
        };
        let context = ContextOptions::default().batch(options.batch);
        let context = ExecutionContext::new(engine, &context)?;
        let input = preprocess.input;
        let preprocessor = Preprocessor::new(preprocess, context.input_shape(input))?;
        let kept = vec![0.0; context.input_shape(input).iter().product()];
        let times = Times::default();
        Ok(Worker { context, preprocessor, input, output, kept, times, options })
    }

    /// Classifies at most a batch of pictures.
    fn run(&mut self, jobs: &mut [Job]) -> Result<Vec<Answer>, Error> {
        for (item, job) in jobs.iter_mut().enumerate() {
            let picture = job.picture()?;
            let input = self.context.input_at(self.input);
            self.preprocessor.run(picture.format, &picture.pixels, item, input)?;
        }
        if let ViewDataMut::F32(input) = self.context.input_at(self.input).data {
            self.kept.copy_from_slice(input);
        }
        for _ in 0..self.options.repeat {
            if let ViewDataMut::F32(input) = self.context.input_at(self.input).data {
                input.copy_from_slice(&self.kept);
            }
            let begun = Instant::now();
            self.context.run()?;
            self.times.runs += 1;
            self.times.with_copies += begun.elapsed();
            if let Some(parts) = self.context.transfer_times() {
                *self.times.without_copies.get_or_insert_default() += parts.compute;
            }
        }
        let output = self.context.output_at(self.output);
        let classes: usize = output.shape.iter().skip(1).product();
        let ViewData::F32(scores) = output.data else {
            return Err(Error::new(ErrorKind::Unsupported, "the classes' scores are not of f32"));
        };
        let answer = |(job, scores): (&mut Job, &[f32])| {
            let mut best = Vec::new();
            Classification::best_of(scores, self.options.top.max(5), &mut best);
            let is_wanted = |b: &Classification| job.wanted == Some(b.class as usize);
            let in_five = best.iter().take(5).any(is_wanted);
            best.truncate(self.options.top);
            Answer { name: std::mem::take(&mut job.name), wanted: job.wanted, best, in_five }
        };
        Ok(jobs.iter_mut().zip(scores.chunks(classes.max(1))).map(answer).collect())
    }
}

/// Classifies all pictures; `each` gets the answers in the pictures' order.
pub fn classify(
    engine: &Engine,
    feed: Feed,
    options: &Options,
    each: &mut dyn FnMut(&Answer) -> Result<(), Error>,
) -> Result<Report, Error> {
    let mut workers = Vec::new();
    for _ in 0..options.streams {
        workers.push(Worker::new(engine, options)?);
    }
    let mut report = Report {
        device: workers[0].context.device(),
        streams: options.streams,
        batch: options.batch,
        pictures: 0,
        seconds: 0.0,
        with_copies: 0.0,
        without_copies: None,
        known: [0; 3],
    };
    let begun = Instant::now();
    let (sender, answers) = mpsc::channel();
    let feed = &feed;
    let (times, told) = thread::scope(|scope| {
        let running: Vec<_> = (workers.into_iter())
            .map(|mut worker| {
                let sender = sender.clone();
                scope.spawn(move || -> Result<Times, Error> {
                    loop {
                        let done = feed.take(worker.options.batch).and_then(|mut jobs| {
                            let first = jobs.first().map(|j| j.number);
                            Ok((first, worker.run_some(&mut jobs)?))
                        });
                        match done {
                            Ok((None, _)) => return Ok(worker.times),
                            // Nobody listens any more: the rest is of no use.
                            Ok((Some(first), answers)) => {
                                if sender.send((first, answers)).is_err() {
                                    return Ok(worker.times);
                                }
                            }
                            Err(e) => {
                                feed.stop();
                                return Err(e);
                            }
                        }
                    }
                })
            })
            .collect();
        drop(sender);
        let told = in_order(answers, &mut report, each);
        if told.is_err() {
            feed.stop();
        }
        let times: Vec<_> = running.into_iter().map(|w| w.join()).collect();
        (times, told)
    });
    let mut all = Times::default();
    for times in times {
        let times = times.map_err(|_| Error::new(ErrorKind::Other, "a worker panicked"))??;
        all.runs += times.runs;
        all.with_copies += times.with_copies;
        if let Some(t) = times.without_copies {
            *all.without_copies.get_or_insert_default() += t;
        }
    }
    told?;
    report.seconds = begun.elapsed().as_secs_f64();
    report.with_copies = all.mean(all.with_copies);
    report.without_copies = all.without_copies.map(|t| all.mean(t));
    Ok(report)
}

impl Worker<'_> {
    fn run_some(&mut self, jobs: &mut [Job]) -> Result<Vec<Answer>, Error> {
        if jobs.is_empty() { Ok(Vec::new()) } else { self.run(jobs) }
    }
}

/// Tells answers in the order of their pictures, as soon as those before them are there.
fn in_order(
    answers: mpsc::Receiver<(usize, Vec<Answer>)>,
    report: &mut Report,
    each: &mut dyn FnMut(&Answer) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut early = BTreeMap::new();
    for (first, batch) in answers {
        early.insert(first, batch);
        while let Some(batch) = early.remove(&report.pictures) {
            for answer in &batch {
                if let Some(wanted) = answer.wanted {
                    let first = answer.best.first().is_some_and(|b| b.class as usize == wanted);
                    let more = [1, usize::from(first), usize::from(answer.in_five)];
                    report.known.iter_mut().zip(more).for_each(|(sum, n)| *sum += n);
                }
                each(answer)?;
            }
            report.pictures += batch.len();
        }
    }
    Ok(())
}
