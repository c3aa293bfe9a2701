//! Frames to picture inputs, on the CPU.

use tobiuo_capture::{FrameFormat, PixelFormat};
use tobiuo_engine::manifest::Preprocess;
use tobiuo_tensor::{TensorViewMut, ViewDataMut};

use crate::detect::Placement;
use crate::{Error, ErrorKind};

/// Turns frames of any format and size into a picture input, on the CPU: colours, resizing and
/// normalisation as an engine's [`Preprocess`] says.
///
/// ```no_run
/// use tobiuo::capture::{FrameFormat, PixelFormat};
/// use tobiuo::{Engine, Preprocessor};
///
/// let engine = Engine::open("classifier.tobiuo")?;
/// let mut context = engine.context()?;
/// let settings = engine.manifest().preprocess.as_ref().expect("an input is a picture");
/// let mut preprocessor = Preprocessor::new(settings, context.input_shape(settings.input))?;
/// let format = FrameFormat::new(PixelFormat::Rgb8, 640, 480);
/// let pixels = vec![0; 640 * 480 * 3];
/// preprocessor.run(format, &pixels, 0, context.input_at(settings.input))?;
/// context.run()?;
/// # Ok::<(), tobiuo::Error>(())
/// ```
pub struct Preprocessor {
    settings: Preprocess,
    /// Channels, height, width.
    input: [usize; 3],
    made: Option<(FrameFormat, tobiuo_cpu::Preprocessor)>,
}

impl Preprocessor {
    /// For an input of this shape, `[pictures, channels, height, width]`.
    ///
    /// Fails with [`ErrorKind::Unsupported`] for any other shape.
    pub fn new(settings: &Preprocess, shape: &[usize]) -> Result<Preprocessor, Error> {
        let [_, channels, height, width] = *shape else {
            let what = format!("the input is {shape:?}, no pictures in NCHW");
            return Err(Error::new(ErrorKind::Unsupported, what));
        };
        let input = [channels, height, width];
        Ok(Preprocessor { settings: settings.clone(), input, made: None })
    }

    /// Fills picture `item` of the input, counted from 0; tells where the frame lies on it.
    /// Allocates only when frames have another format or size than the last one.
    ///
    /// Fails with [`ErrorKind::Unsupported`] when the input is not of f32 and with
    /// [`ErrorKind::Usage`] when it has no such picture or the frame has another number of bytes
    /// than its format tells.
    pub fn run(
        &mut self,
        format: FrameFormat,
        pixels: &[u8],
        item: usize,
        input: TensorViewMut<'_>,
    ) -> Result<Placement, Error> {
        let ViewDataMut::F32(input) = input.data else {
            return Err(Error::new(ErrorKind::Unsupported, "the picture input is not of f32"));
        };
        let size: usize = self.input.iter().product();
        let Some(input) = input.chunks_exact_mut(size.max(1)).nth(item) else {
            return Err(Error::usage(format!("the input has no picture {item}")));
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
