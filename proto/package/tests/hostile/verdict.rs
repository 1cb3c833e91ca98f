//! What a case is, and how it is judged.

use std::collections::HashSet;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

use km_package::verify::{Discard, PackageError, Rule, UntrustedPackage, verify};

use crate::forge;

/// What became of a package.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// Every rule holds.
    Accepted,
    /// This rule does not hold.
    Refused(Rule),
    /// It was blamed on reading or writing, which a package alone must never cause.
    Trouble(String),
    /// It brought the verifier down.
    Panicked,
}

/// One package, and the verdict it must get.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) expected: Verdict,
    pub(crate) package: Vec<u8>,
}

/// A package that `rule` must refuse.
pub(crate) fn refused(rule: Rule, name: impl Into<String>, package: Vec<u8>) -> Case {
    Case { name: name.into(), expected: Verdict::Refused(rule), package }
}

/// A package near the limit, on the right side of it: refusing everything is no verification.
pub(crate) fn accepted(name: impl Into<String>, package: Vec<u8>) -> Case {
    Case { name: name.into(), expected: Verdict::Accepted, package }
}

/// The verdict over a package by the trusted keys and the context of all cases.
pub(crate) fn judge(package: &[u8]) -> Verdict {
    judge_stream(package)
}

/// The verdict over a package that arrives as `stream` delivers it.
pub(crate) fn judge_stream(stream: impl Read) -> Verdict {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let package = UntrustedPackage::open(stream, Discard)?;
        // Shown before anything is verified, so it meets every text there is; only a panic counts.
        let _ = package.peek();
        verify(package, &forge::trusted_keys(), &forge::context()).map(drop)
    }));
    match result {
        Ok(result) => Verdict::from(result),
        Err(_) => Verdict::Panicked,
    }
}

impl From<Result<(), PackageError>> for Verdict {
    fn from(result: Result<(), PackageError>) -> Self {
        match result {
            Ok(()) => Self::Accepted,
            Err(PackageError::Refused { rule, .. }) => Self::Refused(rule),
            Err(other) => Self::Trouble(other.to_string()),
        }
    }
}

/// A reader that gives a few bytes at a time, as a slow network does.
pub(crate) struct Drips<R> {
    pub(crate) stream: R,
    pub(crate) most: usize,
}

impl<R: Read> Read for Drips<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = self.most.min(buffer.len());
        self.stream.read(&mut buffer[..most])
    }
}

/// Judges all cases, and names all that got another verdict than they must.
///
/// Each is judged twice, at once and in drips: how the bytes arrive is the sender's to choose, so
/// it must not change the verdict.
pub(crate) fn assert_verdicts(cases: &[Case]) {
    let mut names = HashSet::new();
    let wrong: Vec<String> = cases.iter().filter_map(|case| mismatch(case, &mut names)).collect();
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn mismatch<'a>(case: &'a Case, names: &mut HashSet<&'a str>) -> Option<String> {
    let Case { name, expected, package } = case;
    assert!(names.insert(name), "two cases are called {name}");
    let whole = judge(package);
    let drips = judge_stream(Drips { stream: &package[..], most: 7 });
    (whole != *expected || drips != *expected)
        .then(|| format!("  {name}: must be {expected:?}; at once it was {whole:?}, in drips {drips:?}"))
}
