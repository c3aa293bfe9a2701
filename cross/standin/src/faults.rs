//! Failures on demand.

use crate::status::Status;

/// Name of the environment variable with the failures.
pub(crate) const VARIABLE: &str = "TOBIUO_STANDIN_FAIL";

/// Which calls fail: a list, separated by commas, of
///
/// - `17:2`: the 17th call returns 2;
/// - `cuMemAlloc_v2#3:2`: the third call of that function;
/// - `17+:999`: the 17th call that needs the device and all after it (a lost device);
/// - `kernel#3:700`: the third kernel that is executed faults, which the next call that waits
///   for it says, and every call after that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults(Vec<Fault>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    which: Which,
    code: Status,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    Call(u64),
    From(u64),
    Function(String, u64),
    Kernel(u64),
}

impl Faults {
    pub fn from_environment() -> Result<Faults, String> {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        Faults::parse(&text).ok_or_else(|| format!("{VARIABLE}: '{text}' is no list of failures"))
    }

    fn parse(text: &str) -> Option<Faults> {
        let items = text.split(',').map(str::trim).filter(|t| !t.is_empty());
        items.map(Fault::parse).collect::<Option<Vec<_>>>().map(Faults)
    }

    /// What the `total`th call, the `nth` of this function, returns instead of doing its work.
    /// `on_device`: a call that a lost device fails.
    pub fn call(&self, name: &str, nth: u64, total: u64, on_device: bool) -> Option<Status> {
        let hit = |f: &&Fault| match &f.which {
            Which::Call(n) => *n == total,
            Which::From(n) => on_device && total >= *n,
            Which::Function(function, n) => function == name && *n == nth,
            Which::Kernel(_) => false,
        };
        self.0.iter().find(hit).map(|f| f.code)
    }

    /// The fault of the `nth` kernel executed.
    pub fn kernel(&self, nth: u64) -> Option<Status> {
        self.0.iter().find(|f| f.which == Which::Kernel(nth)).map(|f| f.code)
    }
}

impl Fault {
    fn parse(text: &str) -> Option<Fault> {
        let (which, code) = text.rsplit_once(':')?;
        let which = match which.split_once('#') {
            Some(("kernel", n)) => Which::Kernel(n.parse().ok()?),
            Some((function, n)) => Which::Function(function.into(), n.parse().ok()?),
            None => match which.strip_suffix('+') {
                Some(n) => Which::From(n.parse().ok()?),
                None => Which::Call(which.parse().ok()?),
            },
        };
        Some(Fault { which, code: code.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_hit_the_calls_they_name() {
        let f = Faults::parse("17:2, cuMemAlloc_v2#3:1,40+:999,kernel#2:700").expect("a list");
        assert_eq!(f.call("cuInit", 1, 17, false), Some(2));
        assert_eq!(f.call("cuInit", 1, 18, true), None);
        assert_eq!(f.call("cuMemAlloc_v2", 3, 20, true), Some(1));
        assert_eq!(f.call("cuMemAlloc_v2", 4, 21, true), None);
        assert_eq!(f.call("cuInit", 9, 41, false), None);
        assert_eq!(f.call("cuCtxSynchronize", 9, 41, true), Some(999));
        assert_eq!((f.kernel(1), f.kernel(2)), (None, Some(700)));
        assert_eq!(Faults::parse("seventeen:2"), None);
        assert_eq!(Faults::parse(""), Some(Faults::default()));
    }
}
