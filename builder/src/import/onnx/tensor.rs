//! TensorProto to [`Tensor`]: raw data, typed fields, external files.

use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use tobiuo_tensor::{DType, Tensor, TensorData, checked_numel, f16};

use super::proto::{TensorProto, type_name};
use super::stop::{Res, invalid, unsupported};
use crate::import::folder;

pub use tobiuo_ops::MAX_RANK;

/// The element type that a TensorProto.DataType becomes: f16, bf16 and f64 are computed as
/// f32. `None` where it is not supported.
pub fn dtype_of(data_type: i64) -> Option<DType> {
    Some(match data_type {
        1 | 10 | 11 | 16 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        6 => DType::I32,
        7 => DType::I64,
        9 => DType::Bool,
        _ => return None,
    })
}

/// As [`dtype_of`], or the reason why not.
pub fn dtype(data_type: i64) -> Res<DType> {
    match dtype_of(data_type) {
        Some(d) => Ok(d),
        None if (1..=24).contains(&data_type) => unsupported(
            format!("element type {} is not supported", type_name(data_type)),
            "one of FLOAT, FLOAT16, BFLOAT16, DOUBLE, INT64, INT32, INT8, UINT8, BOOL is needed",
        ),
        None => invalid(format!("element type {data_type} is not in the standard")),
    }
}

/// A tensor's shape, checked.
pub fn shape(dims: &[i64]) -> Res<Vec<usize>> {
    if dims.len() > MAX_RANK {
        return invalid(format!("a tensor of {} axes, more than {MAX_RANK}", dims.len()));
    }
    let shape: Option<Vec<usize>> = dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    match shape.filter(|s| checked_numel(s).is_some_and(|n| n.checked_mul(8).is_some())) {
        Some(s) => Ok(s),
        None => invalid(format!("{dims:?} is not a tensor's shape")),
    }
}

/// The tensor, its elements as [`dtype_of`] says. External data is looked for in `folder`
/// and nowhere else.
pub fn decode(t: &TensorProto<'_>, folder: &Path) -> Res<Tensor> {
    let dtype = dtype(t.data_type)?;
    let shape = shape(&t.dims)?;
    let n: usize = shape.iter().product();
    if t.segmented {
        return unsupported("a tensor in segments", "a tensor in one piece is needed");
    }
    let size = match t.data_type {
        7 | 11 => 8,
        1 | 6 => 4,
        10 | 16 => 2,
        _ => 1,
    };
    let bytes: Option<Cow<'_, [u8]>> = if t.external {
        Some(Cow::Owned(external(t, folder, n * size)?))
    } else {
        t.raw_data.filter(|r| n == 0 || !r.is_empty()).map(Cow::Borrowed)
    };
    let data = match bytes {
        Some(bytes) if bytes.len() == n * size => from_bytes(t.data_type, dtype, &bytes),
        Some(bytes) => {
            return invalid(format!(
                "shape {:?} of {} needs {} bytes, raw_data holds {}",
                t.dims,
                type_name(t.data_type),
                n * size,
                bytes.len()
            ));
        }
        None => from_fields(t, dtype)?,
    };
    let have = data.len();
    match Tensor::try_new(shape, data) {
        Some(tensor) => Ok(tensor),
        None => invalid(format!("shape {:?} needs {n} elements, the file holds {have}", t.dims)),
    }
}

fn from_bytes(data_type: i64, dtype: DType, bytes: &[u8]) -> TensorData {
    fn each<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|&c| f(c)).collect()
    }
    match (data_type, dtype) {
        (10, _) => TensorData::F32(each(bytes, |b| f16::from_le_bytes(b).to_f32())),
        (16, _) => TensorData::F32(each(bytes, |b| bf16(u16::from_le_bytes(b)))),
        (11, _) => TensorData::F32(each(bytes, |b| f64::from_le_bytes(b) as f32)),
        (_, DType::I64) => TensorData::I64(each(bytes, i64::from_le_bytes)),
        (_, DType::I32) => TensorData::I32(each(bytes, i32::from_le_bytes)),
        (_, DType::I8) => TensorData::I8(each(bytes, i8::from_le_bytes)),
        (_, DType::U8) => TensorData::U8(bytes.to_vec()),
        (_, DType::Bool) => TensorData::Bool(bytes.iter().map(|&b| u8::from(b != 0)).collect()),
        _ => TensorData::F32(each(bytes, f32::from_le_bytes)),
    }
}

/// The bfloat16 of some bits as f32: its upper half.
fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

fn from_fields(t: &TensorProto<'_>, dtype: DType) -> Res<TensorData> {
    let ints = &t.int32_data;
    fn narrow<T: TryFrom<i64>>(values: &[i64]) -> Res<Vec<T>> {
        let narrowed: Option<Vec<T>> = values.iter().map(|&v| T::try_from(v).ok()).collect();
        match narrowed {
            Some(v) => Ok(v),
            None => invalid("int32_data holds a value that does not fit the element type"),
        }
    }
    Ok(match (t.data_type, dtype) {
        (10, _) => TensorData::F32(
            narrow::<u16>(ints)?.into_iter().map(|b| f16::from_bits(b).to_f32()).collect(),
        ),
        (16, _) => TensorData::F32(narrow::<u16>(ints)?.into_iter().map(bf16).collect()),
        (11, _) => TensorData::F32(t.double_data.iter().map(|&v| v as f32).collect()),
        (_, DType::I64) => TensorData::I64(t.int64_data.clone()),
        (_, DType::I32) => TensorData::I32(narrow(ints)?),
        (_, DType::I8) => TensorData::I8(narrow(ints)?),
        (_, DType::U8) => TensorData::U8(narrow(ints)?),
        (_, DType::Bool) => TensorData::Bool(ints.iter().map(|&v| u8::from(v != 0)).collect()),
        _ => TensorData::F32(t.float_data.clone()),
    })
}

/// Reads external data: `want` bytes of a file in the model's folder.
fn external(t: &TensorProto<'_>, folder: &Path, want: usize) -> Res<Vec<u8>> {
    let get = |key: &str| t.external_data.iter().find(|(k, _)| *k == key).map(|&(_, v)| v);
    let number = |key: &str| -> Res<Option<u64>> {
        match get(key).map(str::parse) {
            None => Ok(None),
            Some(Ok(n)) => Ok(Some(n)),
            Some(Err(_)) => invalid(format!("external_data: {key} is not a number")),
        }
    };
    let Some(location) = get("location").filter(|l| !l.is_empty()) else {
        return invalid("external_data has no location");
    };
    let place = |what: String| format!("external data '{location}': {what}");
    let (path, length) = match folder::file_in(folder, location) {
        Ok(found) => found,
        Err(why) => return invalid(place(why)),
    };
    let offset = number("offset")?.unwrap_or(0);
    let claimed = number("length")?.unwrap_or(want as u64);
    if claimed != want as u64 {
        return invalid(place(format!(
            "shape {:?} of {} needs {want} bytes, its length is {claimed}",
            t.dims,
            type_name(t.data_type)
        )));
    }
    if offset.checked_add(claimed).is_none_or(|end| end > length) {
        return invalid(place(format!(
            "bytes {offset} to {offset} + {claimed} are wanted, the file has {length}"
        )));
    }
    let mut bytes = vec![0; want];
    let read = File::open(&path).and_then(|mut f| {
        f.seek(SeekFrom::Start(offset))?;
        f.read_exact(&mut bytes)
    });
    match read {
        Ok(()) => Ok(bytes),
        Err(e) => invalid(place(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::stop::Stop;
    use super::*;

    fn reason(r: Res<Tensor>) -> String {
        match r.unwrap_err() {
            Stop::Invalid(r) | Stop::NotChecked(r) => r,
            Stop::Unsupported { reason, .. } => reason,
        }
    }

    #[test]
    fn typed_fields_of_every_type() {
        let t = |data_type, int32_data: Vec<i64>| TensorProto {
            dims: vec![2],
            data_type,
            int32_data,
            ..TensorProto::default()
        };
        let here = Path::new(".");
        let f32s = |v: Vec<f32>| Tensor::f32([2], v);
        assert_eq!(decode(&t(10, vec![0x3c00, 0xc000]), here).unwrap(), f32s(vec![1.0, -2.0]));
        assert_eq!(decode(&t(16, vec![0x3f80, 0xc000]), here).unwrap(), f32s(vec![1.0, -2.0]));
        assert_eq!(decode(&t(3, vec![-3, 5]), here).unwrap().to_i64().unwrap(), [-3, 5]);
        assert_eq!(decode(&t(9, vec![0, 7]), here).unwrap().to_i64().unwrap(), [0, 1]);
        assert!(reason(decode(&t(2, vec![0, 256]), here)).contains("does not fit"));
        assert!(reason(decode(&t(6, vec![1]), here)).contains("needs 2 elements"));
        assert!(reason(decode(&t(8, vec![]), here)).contains("STRING"));
    }

    #[test]
    fn raw_data_must_have_the_shapes_length() {
        let mut t = TensorProto {
            dims: vec![2, 1],
            data_type: 11,
            raw_data: Some(&[0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0x40]),
            ..TensorProto::default()
        };
        assert_eq!(decode(&t, Path::new(".")).unwrap(), Tensor::f32([2, 1], vec![1.0, 2.0]));
        t.dims = vec![3];
        assert!(reason(decode(&t, Path::new("."))).contains("needs 24 bytes, raw_data holds 16"));
        t.dims = vec![i64::MAX, 4];
        assert!(reason(decode(&t, Path::new("."))).contains("not a tensor's shape"));
        t.dims = vec![-1];
        assert!(reason(decode(&t, Path::new("."))).contains("not a tensor's shape"));
    }

    #[test]
    fn external_data_stays_in_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("w.bin"), [0u8, 0, 0, 0, 0, 0, 0x80, 0x3f]).unwrap();
        let make = |pairs: &[(&'static str, &'static str)]| TensorProto {
            dims: vec![1],
            data_type: 1,
            external: true,
            external_data: pairs.to_vec(),
            ..TensorProto::default()
        };
        let read = |pairs: &[(&'static str, &'static str)]| decode(&make(pairs), dir.path());
        let one = read(&[("location", "w.bin"), ("offset", "4"), ("length", "4")]).unwrap();
        assert_eq!(one, Tensor::f32([1], vec![1.0]));
        assert_eq!(read(&[("location", "./w.bin")]).unwrap(), Tensor::f32([1], vec![0.0]));
        for (pairs, why) in [
            (&[("location", "../w.bin")][..], "outside"),
            (&[("location", "/etc/passwd")], "outside"),
            (&[("location", "none.bin")], "No such file"),
            (&[("location", ".")], "not a regular file"),
            (&[], "no location"),
            (&[("location", "w.bin"), ("offset", "8")], "the file has 8"),
            (&[("location", "w.bin"), ("offset", "18446744073709551615")], "the file has 8"),
            (&[("location", "w.bin"), ("offset", "x")], "not a number"),
            (&[("location", "w.bin"), ("length", "8")], "its length is 8"),
        ] {
            let got = reason(read(pairs));
            assert!(got.contains(why), "{pairs:?}: {got}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
            assert!(reason(read(&[("location", "link")])).contains("leads out"));
        }
    }
}
