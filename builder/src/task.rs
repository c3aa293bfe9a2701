//! What a network's outputs mean, and how pictures become its input, from what its file says
//! and from its shapes.
//!
//! Ultralytics exporters write `names`, `task`, `imgsz` and `stride` into a model's
//! properties. A detector of that family has one output `[N, 4 + classes, anchors]` (or its
//! transpose) with one anchor per cell of the grids of its strides, which tells it from other
//! detectors even without properties.

use tobiuo_engine::{ChannelOrder, Detect, Fit, Preprocess, Task};
use tobiuo_tensor::DType;

use crate::graph::Graph;

/// Ultralytics' defaults.
const SCORE_THRESHOLD: f32 = 0.25;
const IOU_THRESHOLD: f32 = 0.7;
const MAX_DETECTIONS: usize = 300;
/// The grey of Ultralytics' letterbox.
const LETTERBOX_GREY: u8 = 114;
/// Strides of the detection heads in use, from the finest to the coarsest.
const STRIDES: [usize; 5] = [4, 8, 16, 32, 64];

/// Fills in `labels`, `task` and `preprocess` of the metadata, where they are missing and can
/// be told. What is already set stays.
pub fn infer(graph: &mut Graph) {
    if graph.metadata.labels.is_empty()
        && let Some(names) = property(graph, "names").and_then(parse_names)
    {
        graph.metadata.labels = names;
    }
    let Some(picture) = picture_input(graph) else { return };
    let task = graph.metadata.task.clone().or_else(|| infer_task(graph, &picture));
    let fit = match &task {
        Some(Task::Detect(_)) => Fit::Letterbox,
        // Ultralytics trains its classifiers on centre crops.
        Some(Task::Classify { .. }) if property(graph, "task") == Some("classify") => {
            Fit::CenterCrop
        }
        Some(Task::Classify { .. }) => Fit::Stretch,
        _ => return,
    };
    graph.metadata.task = task;
    if graph.metadata.preprocess.is_none() {
        graph.metadata.preprocess = Some(picture.preprocess(fit));
    }
}

/// An input that takes pictures: f32 `[N, 1 or 3, H, W]`.
struct Picture {
    input: usize,
    channels: usize,
    height: usize,
    width: usize,
}

impl Picture {
    fn preprocess(&self, fit: Fit) -> Preprocess {
        Preprocess {
            input: self.input,
            fit,
            pad_value: LETTERBOX_GREY,
            channels: if self.channels == 1 { ChannelOrder::Gray } else { ChannelOrder::Rgb },
            mean: vec![0.0; self.channels],
            std: vec![1.0; self.channels],
        }
    }

    /// True when a number of anchors is that of grids over this picture, of one stride or of
    /// several that follow each other.
    fn has_anchors(&self, anchors: usize) -> bool {
        let cells = |s: usize| self.height.div_ceil(s).saturating_mul(self.width.div_ceil(s));
        (0..STRIDES.len()).any(|first| {
            let mut sum = 0usize;
            STRIDES[first..].iter().any(|&s| {
                sum = sum.saturating_add(cells(s));
                sum == anchors
            })
        })
    }

    /// True when it is the number of anchors of the usual heads: strides 8, 16, 32, with 4 or
    /// 64 beside them or not.
    fn has_usual_anchors(&self, anchors: usize) -> bool {
        let cells = |s: usize| self.height.div_ceil(s).saturating_mul(self.width.div_ceil(s));
        let base = [8, 16, 32].into_iter().map(cells).fold(0, usize::saturating_add);
        [base, base.saturating_add(cells(64)), base.saturating_add(cells(4))].contains(&anchors)
    }
}

fn property<'g>(graph: &'g Graph, key: &str) -> Option<&'g str> {
    let pairs = &graph.metadata.properties;
    pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.trim())
}

fn picture_input(graph: &Graph) -> Option<Picture> {
    graph.inputs.iter().enumerate().find_map(|(input, &id)| {
        let fact = graph.fact(id);
        match *fact.shape.as_slice() {
            [_, channels @ (1 | 3), height, width]
                if fact.dtype == DType::F32 && height >= 8 && width >= 8 =>
            {
                Some(Picture { input, channels, height, width })
            }
            _ => None,
        }
    })
}

fn infer_task(graph: &Graph, picture: &Picture) -> Option<Task> {
    let said = property(graph, "task");
    let labels = graph.metadata.labels.len();
    if matches!(said, None | Some("detect")) {
        let found = (0..graph.outputs.len()).find_map(|i| detect(graph, picture, i, labels));
        // A second output, as segmentation has, means more than boxes unless the file says so.
        if found.is_some() && (said.is_some() || graph.outputs.len() == 1) {
            return found;
        }
    }
    if matches!(said, None | Some("classify")) && graph.outputs.len() == 1 {
        let fact = graph.fact(graph.outputs[0].1);
        if let [_, classes] = *fact.shape.as_slice()
            && fact.dtype == DType::F32
            && classes >= 2
            && (labels == 0 || labels == classes)
        {
            return Some(Task::Classify { output: 0 });
        }
    }
    None
}

/// The detector whose boxes output `output` holds.
fn detect(graph: &Graph, picture: &Picture, output: usize, labels: usize) -> Option<Task> {
    let fact = graph.fact(graph.outputs[output].1);
    let &[_, a, b] = fact.shape.as_slice() else { return None };
    if fact.dtype != DType::F32 || a == b {
        return None;
    }
    let (rows, anchors, transposed) = if a < b { (a, b, false) } else { (b, a, true) };
    let classes = rows.checked_sub(4).filter(|&c| c > 0)?;
    let fits = match labels {
        0 => picture.has_usual_anchors(anchors),
        n => n == classes && picture.has_anchors(anchors),
    };
    fits.then_some(Task::Detect(Detect {
        output,
        classes,
        transposed,
        score_threshold: SCORE_THRESHOLD,
        iou_threshold: IOU_THRESHOLD,
        max_detections: MAX_DETECTIONS,
    }))
}

/// Class names from the text of a Python dictionary `{0: 'person', 1: "bus"}`, a list
/// `['person', 'bus']`, or the same in JSON (`{"0": "person"}`). `None` where it is neither,
/// or where numbers are missing.
pub fn parse_names(text: &str) -> Option<Vec<String>> {
    let mut at = Scanner { rest: text.trim() };
    let close = if at.eat('{') {
        '}'
    } else if at.eat('[') || at.eat('(') {
        if text.trim_start().starts_with('[') { ']' } else { ')' }
    } else {
        return None;
    };
    let mut pairs: Vec<(usize, String)> = Vec::new();
    while !at.eat(close) {
        let key = if close == '}' {
            let key = at.key()?;
            at.eat(':').then_some(key)?
        } else {
            pairs.len()
        };
        pairs.push((key, at.string()?));
        if !at.eat(',') {
            at.eat(close).then_some(())?;
            break;
        }
    }
    if !at.rest.trim().is_empty() {
        return None;
    }
    pairs.sort_by_key(|p| p.0);
    let in_order = pairs.iter().enumerate().all(|(i, p)| p.0 == i);
    (in_order && !pairs.is_empty()).then(|| pairs.into_iter().map(|p| p.1).collect())
}

/// A place in a literal's text.
struct Scanner<'a> {
    rest: &'a str,
}

impl Scanner<'_> {
    /// Takes a character behind white space.
    fn eat(&mut self, c: char) -> bool {
        match self.rest.trim_start().strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// A number, quoted or not.
    fn key(&mut self) -> Option<usize> {
        self.rest = self.rest.trim_start();
        if self.rest.starts_with(['\'', '"']) {
            return self.string()?.trim().parse().ok();
        }
        let end = self.rest.find(|c: char| !c.is_ascii_digit())?;
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        digits.parse().ok()
    }

    /// A quoted string; a bare word in a list of names is taken as it is.
    fn string(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        let quote = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let mut out = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            if c == quote {
                self.rest = &self.rest[i + 1..];
                return Some(out);
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            match chars.next()?.1 {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                kind @ ('x' | 'u' | 'U') => {
                    let digits = match kind {
                        'x' => 2,
                        'u' => 4,
                        _ => 8,
                    };
                    let mut code = 0u32;
                    for _ in 0..digits {
                        code = (code << 4) | chars.next()?.1.to_digit(16)?;
                    }
                    out.push(char::from_u32(code)?);
                }
                other => out.push(other),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(input: &[usize], outputs: &[&[usize]], properties: &[(&str, &str)]) -> Graph {
        let mut g = Graph::new();
        g.add_input("images", DType::F32, input.to_vec());
        for (i, shape) in outputs.iter().enumerate() {
            let id = g.add_input(&format!("o{i}"), DType::F32, shape.to_vec());
            g.outputs.push((format!("o{i}"), id));
        }
        g.inputs.truncate(1);
        g.metadata.properties =
            properties.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        infer(&mut g);
        g
    }

    fn detect_of(g: &Graph) -> Option<(usize, bool)> {
        match &g.metadata.task {
            Some(Task::Detect(d)) => Some((d.classes, d.transposed)),
            _ => None,
        }
    }

    #[test]
    fn names_in_python_and_json() {
        let names = |t| parse_names(t).map(|n| n.join("|"));
        assert_eq!(names("{0: 'person', 1: 'bus'}").as_deref(), Some("person|bus"));
        assert_eq!(names("{1: 'b', 0: \"it's\",}").as_deref(), Some("it's|b"));
        assert_eq!(
            names(r#"{"0": "caf\u00e9", "1": "a, b: {c}"}"#).as_deref(),
            Some("café|a, b: {c}")
        );
        assert_eq!(names(r"{0: 'it\'s', 1: '飛魚'}").as_deref(), Some("it's|飛魚"));
        assert_eq!(names("['x', 'y']").as_deref(), Some("x|y"));
        for bad in [
            "",
            "{",
            "{0",
            "{0:",
            "{0: 'a'",
            "{0: 'a",
            "{0: a}",
            "{0: 'a', 2: 'b'}",
            "{0: 'a'} x",
            "{0: 'a', 0: 'b'}",
            "{}",
            "[]",
            "{-1: 'a'}",
            r"{0: '\x4'}",
            "{99999999999999999999: 'a'}",
        ] {
            assert_eq!(names(bad), None, "{bad}");
        }
    }

    #[test]
    fn yolo_heads() {
        let image = &[1, 3, 640, 640][..];
        let coco: String = (0..80).map(|i| format!("{i}: 'c{i}', ")).collect();
        let coco = format!("{{{coco}}}");
        let said = &[("names", coco.as_str()), ("task", "detect")][..];
        assert_eq!(detect_of(&graph(image, &[&[1, 84, 8400]], said)), Some((80, false)));
        assert_eq!(detect_of(&graph(image, &[&[1, 8400, 84]], said)), Some((80, true)));
        assert_eq!(detect_of(&graph(image, &[&[1, 84, 8400]], &[])), Some((80, false)));
        let g = graph(&[2, 1, 320, 416], &[&[2, 6, 2730]], &[]);
        assert_eq!(detect_of(&g), Some((2, false)));
        let p = g.metadata.preprocess.unwrap();
        assert_eq!((p.fit, p.channels, p.mean.len()), (Fit::Letterbox, ChannelOrder::Gray, 1));
        // Two strides, told by the names.
        let two = &[("names", "['a', 'b']")][..];
        assert_eq!(detect_of(&graph(image, &[&[1, 6, 2000]], two)), Some((2, false)));
        assert_eq!(detect_of(&graph(image, &[&[1, 6, 2000]], &[])), None);
        // With objectness, end to end, wrong number of names, segmentation.
        assert_eq!(detect_of(&graph(image, &[&[1, 25200, 85]], said)), None);
        assert_eq!(detect_of(&graph(image, &[&[1, 300, 6]], two)), None);
        assert_eq!(detect_of(&graph(image, &[&[1, 85, 8400]], said)), None);
        assert_eq!(detect_of(&graph(image, &[&[1, 116, 8400], &[1, 32, 160, 160]], &[])), None);
    }

    #[test]
    fn classifiers() {
        let g = graph(&[1, 3, 224, 224], &[&[1, 1000]], &[]);
        assert_eq!(g.metadata.task, Some(Task::Classify { output: 0 }));
        assert_eq!(g.metadata.preprocess.unwrap().fit, Fit::Stretch);
        assert_eq!(graph(&[1, 10], &[&[1, 1000]], &[]).metadata.task, None);
        assert_eq!(graph(&[1, 3, 224, 224], &[&[1, 4, 7, 7]], &[]).metadata.task, None);
    }
}
