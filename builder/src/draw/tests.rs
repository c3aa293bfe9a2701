use super::*;
use crate::testing::random_network;

fn network() -> Graph {
    random_network(&[0, 4, 5, 0x100, 8, 10, 2, 12, 9, 5], 1, 3)
}

#[test]
fn dot_names_every_node() {
    let g = network();
    let drawing = Drawing::of_graph(&g);
    assert_eq!(drawing.boxes.len(), g.nodes.len() + g.inputs.len() + g.outputs.len());
    let dot = drawing.to_dot();
    assert!(dot.starts_with("digraph") && dot.contains("Conv 3x3 /1x1"), "{dot}");
    assert!(dot.matches(" -> ").count() == drawing.arrows.len());
}

#[test]
fn arrows_go_down_and_boxes_do_not_overlap() {
    let drawing = Drawing::of_graph(&network());
    let layout = layout::layers(&drawing);
    for (from, to, _) in &drawing.arrows {
        assert!(layout.layer[*from] < layout.layer[*to]);
    }
    for a in 0..drawing.boxes.len() {
        for b in 0..a {
            let apart = (layout.x[a] - layout.x[b]).abs() >= layout::BOX_WIDTH;
            assert!(layout.layer[a] != layout.layer[b] || apart, "boxes {a} and {b} overlap");
        }
    }
}

#[test]
fn hostile_names_stay_text() {
    let mut g = Graph::new();
    let x = g.add_input("<script>\"&\u{0}\n", tobiuo_tensor::DType::F32, vec![1]);
    let op = tobiuo_ops::Op::Activation(tobiuo_ops::Activation::Relu);
    let y = g.push1("\\\"]; evil [", op, &[x]).unwrap();
    g.outputs.push(("y".into(), y));
    let drawing = Drawing::of_graph(&g);
    let svg = drawing.to_svg();
    assert!(!svg.contains("<script>") && svg.contains("&lt;script&gt;&quot;&amp;\u{fffd}"));
    assert!(drawing.to_dot().contains("\\\\\\\"]; evil ["));
}
