//! Which cases are in scope: tests/onnx/scope.txt, which says how it is read.

use super::manifest::Case;

/// The rules that are checked in.
pub const CHECKED_IN: &str = include_str!("../../onnx/scope.txt");

/// The rules.
#[derive(Debug, Default)]
pub struct Scope {
    opset: i64,
    types: Vec<String>,
    operators: Vec<String>,
    /// Reason and operators.
    out: Vec<(String, Vec<String>)>,
    /// Reason and patterns of names, in which `*` stands for anything.
    cases: Vec<(String, Vec<String>)>,
}

impl Scope {
    /// Reads rules.
    ///
    /// # Errors
    ///
    /// A line that is no rule.
    pub fn parse(text: &str) -> Result<Scope, String> {
        let words = |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<_>>();
        let mut scope = Scope::default();
        for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let wrong = || format!("no rule: {line}");
            let (rule, rest) = line.split_once(' ').ok_or_else(wrong)?;
            let because = || {
                let (reason, names) = rest.split_once(": ").ok_or_else(wrong)?;
                Ok::<_, String>((reason.to_string(), words(names)))
            };
            match rule {
                "opset" => scope.opset = rest.parse().map_err(|_| wrong())?,
                "types" => scope.types.extend(words(rest)),
                "in" => scope.operators.extend(words(rest)),
                "out" => scope.out.push(because()?),
                "case" => scope.cases.push(because()?),
                _ => return Err(wrong()),
            }
        }
        Ok(scope)
    }

    /// Why a case is not in scope; `None` where it is.
    ///
    /// # Errors
    ///
    /// An operator that no rule names.
    pub fn out(&self, case: &Case) -> Result<Option<String>, String> {
        if let Some(operator) = case.operators.iter().find(|o| !self.operators.contains(o)) {
            return match self.out.iter().find(|(_, operators)| operators.contains(operator)) {
                Some((reason, _)) => Ok(Some(format!("{operator}: {reason}"))),
                None => Err(format!(
                    "{}: no rule of tests/onnx/scope.txt names the operator {operator}",
                    case.name
                )),
            };
        }
        if case.opset < self.opset {
            return Ok(Some(format!("opset {}", case.opset)));
        }
        if let Some(t) = case.types.iter().find(|t| !self.types.contains(t)) {
            return Ok(Some(format!("element type {t}")));
        }
        let rules = self.cases.iter();
        let mut named = rules.filter(|(_, p)| p.iter().any(|p| matches(p, &case.name)));
        Ok(named.next().map(|(reason, _)| reason.clone()))
    }

    /// The operators in scope.
    pub fn operators(&self) -> &[String] {
        &self.operators
    }

    /// The patterns of names that take cases out.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.cases.iter().flat_map(|(_, patterns)| patterns).map(String::as_str)
    }
}

/// Whether a name matches a pattern in which `*` stands for anything.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|i| rest.is_char_boundary(i) && matches(after, &rest[i..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, is) in [
            ("test_a", "test_a", true),
            ("test_a", "test_ab", false),
            ("test_*d_x", "test_3d_x", true),
            ("test_*d_x", "test_3d_xy", false),
            ("*a*b", "aab", true),
            ("*a*b", "aac", false),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }
}
