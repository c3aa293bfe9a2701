//! Frames to picture inputs, on the CPU.

use tobiuo_capture::{FrameFormat, PixelFormat};
use tobiuo_engine::manifest::Preprocess;
use tobiuo_tensor::{TensorViewMut, ViewDataMut};

use crate::detect::Placement;
use crate::{Error, ErrorKind};

/// Turns frames of any format and size into a picture input.
pub(crate) struct Preprocessor {
    settings: Preprocess,
    /// Channels, height, width.
    input: [usize; 3],
    made: Option<(FrameFormat, tobiuo_cpu::Preprocessor)>,
}

impl Preprocessor {
    /// For an input of this shape, `[1, channels, height, width]`.
    pub fn new(settings: &Preprocess, shape: &[usize]) -> Result<Preprocessor, Error> {
        let [1, channels, height, width] = *shape else {
            let what = format!("the input is {shape:?}, not one picture in NCHW");
            return Err(Error::new(ErrorKind::Unsupported, what));
        };
        let input = [channels, height, width];
        Ok(Preprocessor { settings: settings.clone(), input, made: None })
    }

    /// Fills the input; tells where the frame lies on it. Allocates only when frames have
    /// another format or size than the last one.
    pub fn run(
        &mut self,
        format: FrameFormat,
        pixels: &[u8],
        input: TensorViewMut<'_>,
    ) -> Result<Placement, Error> {
        let ViewDataMut::F32(input) = input.data else {
            return Err(Error::new(ErrorKind::Unsupported, "the picture input is not of f32"));
        };
        let made = match &mut self.made {
            Some((known, made)) if *known == format => made,
            other => {
                let [width, height] = [format.width as usize, format.height as usize];
                let pixel = pixel_format(format.pixel);
                let made = tobiuo_cpu::Preprocessor::new(
                    pixel,
                    width,
                    height,
                    self.input,
                    &self.settings,
                )?;
                &mut other.insert((format, made)).1
            }
        };
        made.run(pixels, input)?;
        let p = made.placement();
        Ok(Placement {
            scale_x: p.scale_x,
            scale_y: p.scale_y,
            offset_x: p.offset_x,
            offset_y: p.offset_y,
            frame_width: format.width,
            frame_height: format.height,
        })
    }
}

fn pixel_format(pixel: PixelFormat) -> tobiuo_cpu::PixelFormat {
    match pixel {
        PixelFormat::Rgb8 => tobiuo_cpu::PixelFormat::Rgb8,
        PixelFormat::Bgr8 => tobiuo_cpu::PixelFormat::Bgr8,
        PixelFormat::Gray8 => tobiuo_cpu::PixelFormat::Gray8,
        PixelFormat::Yuyv => tobiuo_cpu::PixelFormat::Yuyv,
        PixelFormat::Uyvy => tobiuo_cpu::PixelFormat::Uyvy,
        PixelFormat::Nv12 => tobiuo_cpu::PixelFormat::Nv12,
        PixelFormat::I420 => tobiuo_cpu::PixelFormat::I420,
    }
}
