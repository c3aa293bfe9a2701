//! Task, preprocessing and labels of an engine: what the model says, and what the user says
//! instead.

use tobiuo_engine::{ChannelOrder, Detect, Fit, Preprocess, Task};
use tobiuo_tensor::DType;

use crate::graph::Graph;
use crate::options::{BuildOptions, TaskChoice};
use crate::{BuildError, task};

/// Sets labels, task and preprocessing in the graph's metadata as the options ask.
pub(crate) fn apply(graph: &mut Graph, options: &BuildOptions) -> Result<(), BuildError> {
    if let Some(labels) = &options.labels {
        graph.metadata.labels = labels.clone();
        // What was inferred without these names may not hold with them.
        graph.metadata.task = None;
        task::infer(graph);
    }
    match options.task {
        TaskChoice::Auto => {}
        TaskChoice::Tensors => {
            graph.metadata.task = None;
            graph.metadata.preprocess = None;
        }
        TaskChoice::Detect => {
            if !matches!(graph.metadata.task, Some(Task::Detect(_))) {
                graph.metadata.task = Some(detect(graph)?);
            }
        }
        TaskChoice::Classify => {
            if !matches!(graph.metadata.task, Some(Task::Classify { .. })) {
                graph.metadata.task = Some(classify(graph)?);
            }
        }
    }
    thresholds(graph, options)?;
    preprocess(graph, options)?;
    check_labels(graph, options)
}

fn usage<T>(what: String) -> Result<T, BuildError> {
    Err(BuildError::Usage(what))
}

/// The outputs as messages list them.
fn outputs(graph: &Graph) -> String {
    let one = |(name, v): &(String, _)| format!("'{name}' {}", graph.fact(*v));
    graph.outputs.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The first output that has a detector's form.
fn detect(graph: &Graph) -> Result<Task, BuildError> {
    for (output, (_, v)) in graph.outputs.iter().enumerate() {
        let fact = graph.fact(*v);
        if let (DType::F32, &[_, a, b]) = (fact.dtype, &fact.shape[..]) {
            // There are more anchors than rows.
            let (rows, transposed) = if a <= b { (a, false) } else { (b, true) };
            if rows > 4 {
                return Ok(Task::Detect(Detect {
                    output,
                    classes: rows - 4,
                    transposed,
                    score_threshold: 0.25,
                    iou_threshold: 0.7,
                    max_detections: 300,
                }));
            }
        }
    }
    usage(format!(
        "--task detect: no output has the form [N, 4 + classes, anchors] or \
         [N, anchors, 4 + classes]; the model's outputs are {}",
        outputs(graph)
    ))
}

fn classify(graph: &Graph) -> Result<Task, BuildError> {
    let form = |v| graph.fact(v).dtype == DType::F32 && graph.shape(v).len() == 2;
    match graph.outputs.iter().position(|&(_, v)| form(v)) {
        Some(output) => Ok(Task::Classify { output }),
        None => usage(format!(
            "--task classify: no output has the form [N, classes]; the model's outputs are {}",
            outputs(graph)
        )),
    }
}

fn thresholds(graph: &mut Graph, options: &BuildOptions) -> Result<(), BuildError> {
    let given = [
        ("--score-threshold", options.score_threshold.is_some()),
        ("--iou-threshold", options.iou_threshold.is_some()),
        ("--max-detections", options.max_detections.is_some()),
    ];
    let Some(Task::Detect(d)) = &mut graph.metadata.task else {
        return match given.iter().find(|(_, given)| *given) {
            Some((name, _)) => usage(format!(
                "{name} is for detectors, and this model is not known to be one; --task detect \
                 says that it is"
            )),
            None => Ok(()),
        };
    };
    d.score_threshold = options.score_threshold.unwrap_or(d.score_threshold);
    d.iou_threshold = options.iou_threshold.unwrap_or(d.iou_threshold);
    d.max_detections = options.max_detections.unwrap_or(d.max_detections);
    for (name, v) in
        [("--score-threshold", d.score_threshold), ("--iou-threshold", d.iou_threshold)]
    {
        if !(0.0..=1.0).contains(&v) {
            return usage(format!("{name} {v}: a number from 0 to 1 is wanted"));
        }
    }
    if d.max_detections == 0 {
        return usage("--max-detections 0: at least one must be kept".into());
    }
    Ok(())
}

/// The first input that can be a picture: its index and channels.
fn picture(graph: &Graph) -> Option<(usize, usize)> {
    graph.inputs.iter().enumerate().find_map(|(i, &v)| match *graph.shape(v) {
        [_, c @ (1 | 3), h, w] if graph.fact(v).dtype == DType::F32 && h > 0 && w > 0 => {
            Some((i, c))
        }
        _ => None,
    })
}

fn preprocess(graph: &mut Graph, options: &BuildOptions) -> Result<(), BuildError> {
    let p = &options.preprocess;
    let asked = *p != Default::default();
    let task = &graph.metadata.task;
    let wanted = asked || matches!(task, Some(Task::Detect(_) | Task::Classify { .. }));
    if graph.metadata.preprocess.is_none() && wanted {
        match picture(graph) {
            Some((input, channels)) => {
                graph.metadata.preprocess = Some(Preprocess {
                    input,
                    fit: match task {
                        Some(Task::Detect(_)) => Fit::Letterbox,
                        _ => Fit::Stretch,
                    },
                    pad_value: 114,
                    channels: if channels == 1 { ChannelOrder::Gray } else { ChannelOrder::Rgb },
                    mean: vec![0.0; channels],
                    std: vec![1.0; channels],
                });
            }
            None if asked => {
                return usage(
                    "--mean, --std, --fit, --channels and --pad-value are for pictures, and no \
                     input of the model has the form f32 [N, 1 or 3, H, W]"
                        .into(),
                );
            }
            None => {}
        }
    }
    let Some(out) = &mut graph.metadata.preprocess else { return Ok(()) };
    let channels = out.mean.len();
    let spread = |name: &str, given: &[f32]| match given.len() {
        1 => Ok(vec![given[0]; channels]),
        n if n == channels => Ok(given.to_vec()),
        n => usage(format!("{name} has {n} values, the picture {channels} channels")),
    };
    if let Some(mean) = &p.mean {
        out.mean = spread("--mean", mean)?;
    }
    if let Some(std) = &p.std {
        out.std = spread("--std", std)?;
        if out.std.iter().any(|&s| s <= 0.0) {
            return usage("--std: each value must be larger than 0".into());
        }
    }
    out.fit = p.fit.unwrap_or(out.fit);
    out.pad_value = p.pad_value.unwrap_or(out.pad_value);
    if let Some(order) = p.channels {
        if (order == ChannelOrder::Gray) != (channels == 1) {
            return usage(format!("--channels: the model's picture has {channels} channels"));
        }
        out.channels = order;
    }
    Ok(())
}

fn check_labels(graph: &mut Graph, options: &BuildOptions) -> Result<(), BuildError> {
    let classes = match &graph.metadata.task {
        Some(Task::Detect(d)) => d.classes,
        Some(Task::Classify { output }) => graph.shape(graph.outputs[*output].1)[1],
        _ => return Ok(()),
    };
    let labels = graph.metadata.labels.len();
    if labels == 0 || labels == classes {
        return Ok(());
    }
    if options.labels.is_some() {
        return usage(format!("--labels has {labels} names, the model {classes} classes"));
    }
    log::warn!("the model's {labels} class names are left out: its output has {classes} classes");
    graph.metadata.labels.clear();
    Ok(())
}
