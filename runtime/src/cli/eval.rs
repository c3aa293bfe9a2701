use std::fmt::Write as _;

use tobiuo::eval::{Annotations, EvalOptions, Report, evaluate};
use tobiuo::{Error, ErrorKind, process};

use super::args::Args;
use super::{Command, end_progress, print, print_json, say_progress};

pub const COMMAND: Command = Command {
    name: "eval",
    synopsis: "ENGINE --images DIR --annotations COCO.json",
    summary: "average precision of a detector on annotated pictures (COCO's AP50, AP50:95)",
    options: "
  --images DIR             where the pictures are
  --annotations COCO.json  what is on them, as COCO's instances_*.json
  -t, --threshold S        lowest score that counts, 0..1; 0.001
  --iou X                  suppression's overlap, 0..1; 0.7
  --max-detections N       per picture; 300
  --threads N              threads that the network computes on; all cores unless given
",
    device: true,
    run,
};

fn run(args: Args) -> Result<(), Error> {
    args.only("eval", &["images", "annotations", "threshold", "iou", "max-detections", "threads"])?;
    let stop = process::stop_on_signals()?;
    let (engine, _) = args.engine("eval", 1)?;
    let missing = |option: &str| Error::new(ErrorKind::Usage, format!("{option} is missing"));
    let images = args.images.as_ref().ok_or_else(|| missing("--images DIR"))?;
    let annotations =
        args.annotations.as_ref().ok_or_else(|| missing("--annotations COCO.json"))?;
    let annotations = Annotations::read(annotations)?;
    let mut options = EvalOptions::default();
    options.score_threshold = args.threshold.unwrap_or(options.score_threshold);
    options.iou_threshold = args.iou.unwrap_or(options.iou_threshold);
    options.max_detections = args.max_detections.unwrap_or(options.max_detections);
    options.context = args.context();
    let begin = std::time::Instant::now();
    let report = evaluate(&engine, images, annotations, &options, &stop, |done, total| {
        let gone = begin.elapsed().as_secs_f64();
        let left = if done > 0 { gone / done as f64 * (total - done) as f64 } else { 0.0 };
        say_progress(&format!("{done}/{total} pictures, {left:.0} s left"));
    });
    end_progress();
    let report = report?;
    if args.json {
        print_json(&report.to_json(engine.labels()))
    } else {
        print(&table(&report, engine.labels()))
    }
}

fn table(r: &Report, labels: &[String]) -> String {
    let percent = |v: Option<f64>| v.map_or("-".to_string(), |v| format!("{:.1}", v * 100.0));
    let mut t =
        format!("{:<24} {:>8} {:>8} {:>8} {:>9}\n", "class", "truths", "AP50", "AP75", "AP50:95");
    for (i, c) in r.classes.iter().enumerate() {
        let label = labels.get(i).cloned().unwrap_or_else(|| i.to_string());
        let _ = writeln!(
            t,
            "{label:<24} {:>8} {:>8} {:>8} {:>9}",
            c.truths,
            percent(c.ap50),
            percent(c.ap75),
            percent(c.ap)
        );
    }
    let truths: usize = r.classes.iter().map(|c| c.truths).sum();
    let all = format!("all, {} pictures", r.pictures);
    let _ = writeln!(
        t,
        "{all:<24} {truths:>8} {:>8} {:>8} {:>9}",
        percent(r.ap50),
        percent(r.ap75),
        percent(r.ap)
    );
    t
}
