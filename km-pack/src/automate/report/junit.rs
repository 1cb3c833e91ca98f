//! `junit.xml`, for machines that show tests.

use km_package::failure::{Failure, Kind};
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};

use super::{Case, Outcome, Report};

/// The whole document: a suite for each phase.
pub(super) fn write(report: &Report) -> Result<String, Failure> {
    let mut document = quick_junit::Report::new("km-pack automate");
    document.set_time(report.took);
    for counts in &report.phases {
        let mut suite = TestSuite::new(counts.phase.as_str());
        suite.set_time(counts.took);
        let cases = report.cases.iter().filter(|case| case.phase == counts.phase);
        suite.add_test_cases(cases.map(|case| test_case(case, report)));
        document.add_test_suite(suite);
    }
    document.to_string().map_err(|e| Failure::new(Kind::Failed, format_args!("cannot write junit.xml: {e}")))
}

fn test_case(case: &Case, report: &Report) -> TestCase {
    let why = case.why.clone().unwrap_or_default();
    let status = match case.outcome {
        Outcome::Passed => TestCaseStatus::success(),
        Outcome::Skipped => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(why);
            status
        }
        Outcome::Failed => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(why).set_type("failed");
            status.set_description(format!("{}\nagain: {}", case.account(), report.again(case)));
            status
        }
    };
    let mut test = TestCase::new(case.name.clone(), status);
    let group = case.name.rsplit_once('/').map_or("", |(group, _)| group);
    test.set_classname(if group.is_empty() {
        case.phase.as_str().to_owned()
    } else {
        format!("{}.{}", case.phase.as_str(), group.replace('/', "."))
    });
    if let Some(place) = case.place() {
        let (file, line) = place.rsplit_once(':').unwrap_or((&place, "1"));
        test.extra.insert("file".into(), file.into());
        test.extra.insert("line".into(), line.into());
    }
    test.set_time(case.took);
    test
}
