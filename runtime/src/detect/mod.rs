//! From a detector's raw output to boxes on the frame.
//!
//! The output is in the form of current YOLO exporters: `[1, 4 + classes, anchors]`, rows
//! 0..4 the box's centre x, centre y, width and height in pixels of the network's input, the
//! other rows class scores in 0..1 (or the two last axes swapped). Boxes below the score
//! threshold go first; the rest is sorted by score; of two boxes of one class that overlap
//! by more than the IoU threshold the lower scored goes (greedy non-maximum suppression, one
//! class at a time); what is left is mapped back through the letterbox onto the frame.

mod decode;
mod nms;
mod placement;

pub use decode::{DetectOptions, Detector};
pub use placement::Placement;

/// An object found on a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Class index; names are in [`Engine::labels`](crate::Engine::labels).
    pub class: u32,
    /// Score, 0..=1.
    pub score: f32,
    /// Left edge, pixels from the frame's left edge.
    pub left: f32,
    /// Top edge, pixels from the frame's top edge.
    pub top: f32,
    /// Right edge, pixels; `left < right <= frame width`.
    pub right: f32,
    /// Bottom edge, pixels; `top < bottom <= frame height`.
    pub bottom: f32,
}

impl Detection {
    /// Width, pixels.
    pub fn width(&self) -> f32 {
        self.right - self.left
    }

    /// Height, pixels.
    pub fn height(&self) -> f32 {
        self.bottom - self.top
    }

    /// Intersection over union with another box, 0..=1, whatever the classes.
    pub fn iou(&self, other: &Detection) -> f32 {
        let w = (self.right.min(other.right) - self.left.max(other.left)).max(0.0);
        let h = (self.bottom.min(other.bottom) - self.top.max(other.top)).max(0.0);
        let both = w * h;
        let union = self.width() * self.height() + other.width() * other.height() - both;
        if union > 0.0 { both / union } else { 0.0 }
    }
}
