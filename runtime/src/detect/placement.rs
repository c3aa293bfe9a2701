/// Where a frame lies on the network's input: input = frame * scale + offset, per axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// Input pixels per frame pixel, horizontally.
    pub scale_x: f32,
    /// Input pixels per frame pixel, vertically.
    pub scale_y: f32,
    /// The frame's left edge on the input, pixels (negative when it is cut).
    pub offset_x: f32,
    /// The frame's top edge on the input, pixels (negative when it is cut).
    pub offset_y: f32,
    /// Frame width, pixels.
    pub frame_width: u32,
    /// Frame height, pixels.
    pub frame_height: u32,
}

impl Placement {
    /// A frame that is the network's input itself.
    pub fn identity(width: u32, height: u32) -> Placement {
        Placement {
            scale_x: 1.0,
            scale_y: 1.0,
            offset_x: 0.0,
            offset_y: 0.0,
            frame_width: width,
            frame_height: height,
        }
    }

    /// A box `[left, top, right, bottom]` of the input in pixels of the frame, clipped to
    /// it. Empty (right <= left or bottom <= top) when it lies outside.
    pub fn to_frame(&self, [left, top, right, bottom]: [f32; 4]) -> [f32; 4] {
        let (w, h) = (self.frame_width as f32, self.frame_height as f32);
        let x = |v: f32| ((v - self.offset_x) / self.scale_x).clamp(0.0, w);
        let y = |v: f32| ((v - self.offset_y) / self.scale_y).clamp(0.0, h);
        [x(left), y(top), x(right), y(bottom)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letterbox_is_undone_and_clipped() {
        // 640x480 on 320x320: scale 0.5, 40 rows of border above.
        let p = Placement {
            scale_x: 0.5,
            scale_y: 0.5,
            offset_x: 0.0,
            offset_y: 40.0,
            frame_width: 640,
            frame_height: 480,
        };
        assert_eq!(p.to_frame([10.0, 50.0, 30.0, 90.0]), [20.0, 20.0, 60.0, 100.0]);
        assert_eq!(p.to_frame([-5.0, 0.0, 400.0, 300.0]), [0.0, 0.0, 640.0, 480.0]);
        let [_, top, _, bottom] = p.to_frame([0.0, 0.0, 10.0, 30.0]);
        assert!(bottom <= top, "a box on the border alone is empty");
    }
}
