//! The bandwidth of device memory, measured.

use tobiuo_gpu::{CommandList, Context, DeviceBuffer, Event, GpuError, Stream};

use super::cache::TacticCache;

/// Copies of one graph.
const COPIES: usize = 4;
/// Measured replays; the fastest counts.
const ROUNDS: usize = 5;
/// Name of the measurement in the cache.
const NAME: &str = "copy bandwidth";

/// Bytes read and written per second by a copy larger than the cache, GB/s, rounded to three
/// digits; from the cache where it was measured before, so that the cost model says the same
/// in every build.
pub fn of(context: &Context, cache: &mut TacticCache, device: &str) -> Result<f64, GpuError> {
    if let Some(Some(known)) = cache.get(device, NAME) {
        return Ok(known);
    }
    let measured = rounded(measure(context)?);
    cache.put(device, NAME, "GB/s", measured);
    Ok(measured)
}

fn rounded(value: f64) -> f64 {
    let unit = 10f64.powf(value.max(1e-3).log10().floor() - 2.0);
    ((value / unit).round() * unit * 1e3).round() / 1e3
}

/// Bytes of the copy: far larger than the cache, but no strain on a device with little free.
fn size(cache: usize, free: usize) -> usize {
    (cache * 4).max(32 << 20).min((free / 8).max(1 << 20))
}

fn measure(context: &Context) -> Result<f64, GpuError> {
    let bytes = size(context.device().l2_bytes as usize, context.memory()?.0);
    let stream = Stream::new(context)?;
    let (from, to) = (DeviceBuffer::new(context, bytes)?, DeviceBuffer::new(context, bytes)?);
    let mut list = CommandList::new(context)?;
    list.fill(&from.whole(), 1)?;
    for _ in 0..COPIES {
        list.copy(&from.whole(), &to.whole())?;
    }
    let mut graph = list.capture()?;
    let (begin, end) = (Event::timed(context)?, Event::timed(context)?);
    let mut best = f64::INFINITY;
    for round in 0..ROUNDS + 1 {
        begin.record(&stream)?;
        graph.launch(&stream)?;
        end.record(&stream)?;
        end.synchronize()?;
        if round > 0 {
            best = best.min(begin.microseconds_to(&end)?);
        }
    }
    // The fill writes the same bytes once.
    Ok(bytes as f64 * (2 * COPIES + 1) as f64 / best / 1e3)
}

#[cfg(test)]
mod tests {
    use super::{rounded, size};

    #[test]
    fn copies_leave_a_small_device_room() {
        assert_eq!(size(4 << 20, 8 << 30), 32 << 20);
        assert_eq!(size(60 << 20, 100 << 30), 240 << 20);
        assert_eq!(size(4 << 20, 100 << 20), (100 << 20) / 8);
        assert_eq!(size(4 << 20, 0), 1 << 20);
    }

    #[test]
    fn three_digits_are_kept() {
        assert_eq!(rounded(3987.4), 3990.0);
        assert_eq!(rounded(102.449), 102.0);
        assert_eq!(rounded(59.68), 59.7);
    }
}
