//! Times the JPEG codec: `cargo run --release -p tobiuo-capture --example jpeg_bench [FILE.jpg]`.
//! With a file, also writes FILE.rgb, its decoded pixels, to compare with another decoder's.

use std::time::Instant;

use tobiuo_capture::jpeg::{Decoder, Encoder, dimensions};
use tobiuo_capture::{Read, SourceConfig, open};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (width, height) = (640, 480);
    let mut rgb = vec![0; width * height * 3];
    let mut source = open("test://scene?width=640&height=480", &SourceConfig::default())?;
    let Read::Frame(_) = source.read(&mut rgb, &false.into())? else { unreachable!() };

    let mut encoder = Encoder::new(width as u32, height as u32, 85)?;
    let mut jpeg = Vec::new();
    let encode = time(|| encoder.encode(&rgb, &mut jpeg).unwrap());
    println!("encode {width}x{height} 4:2:0 q85: {encode:.2} ms, {} bytes", jpeg.len());
    if let Some(path) = std::env::args().nth(1) {
        jpeg = std::fs::read(&path)?;
        let (width, height) = dimensions(&jpeg)?;
        rgb = vec![0; (width * height * 3) as usize];
        Decoder::new().decode(&jpeg, &mut rgb)?;
        std::fs::write(format!("{path}.rgb"), &rgb)?;
    }
    let mut decoder = Decoder::new();
    let mut size = (0, 0);
    let decode = time(|| size = decoder.decode(&jpeg, &mut rgb).unwrap());
    println!("decode {}x{}: {decode:.2} ms, {} bytes", size.0, size.1, jpeg.len());
    let image = time(|| drop(image::load_from_memory(&jpeg).unwrap()));
    println!("decode by the image crate: {image:.2} ms");
    Ok(())
}

/// The fewest milliseconds of a call.
fn time(mut call: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..101)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[0]
}
