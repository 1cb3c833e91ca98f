//! `report.md`, for people.

use super::{Case, Done, Outcome, Phase, Report, span};
use crate::automate::cleanup::bytes;

/// The whole page.
pub(super) fn write(report: &Report) -> String {
    let mut page = format!(
        "# Automation: {}\n\nBegun {}, took {}{}.\n\n",
        report.verdict(),
        report.started.strftime("%Y-%m-%d %H:%M:%S UTC"),
        span(report.took),
        if report.quick { ", `--quick`" } else { "" }
    );
    page.push_str("| phase | passed | failed | skipped | time |\n|---|---|---|---|---|\n");
    for counts in &report.phases {
        let super::Counts { phase, passed, failed, skipped, took } = counts;
        page.push_str(&format!(
            "| {} | {passed} | {failed} | {skipped} | {} |\n",
            phase.as_str(),
            span(*took)
        ));
    }
    if report.failures().next().is_some() {
        page.push_str("\n## What failed\n");
        for case in report.failures() {
            page.push_str(&format!("\n### {}\n\n{}", case.name, fenced(&case.account())));
            page.push_str(&format!("\nAgain: `{}`\n", report.again(case)));
        }
    }
    page.push_str(&environment(report));
    page.push_str(&built(report));
    for phase in Phase::ALL {
        let cases: Vec<&Case> = report.cases.iter().filter(|case| case.phase == phase).collect();
        if !cases.is_empty() {
            page.push_str(&format!("\n## {}\n", heading(phase)));
            page.extend(cases.into_iter().map(steps));
        }
    }
    page
}

fn heading(phase: Phase) -> &'static str {
    match phase {
        Phase::Cleanup => "Cleanup",
        Phase::Build => "Build",
        Phase::Test => "Test",
    }
}

fn environment(report: &Report) -> String {
    let facts = &report.environment;
    let mut text = format!(
        "\n## Environment\n\n| | |\n|---|---|\n| system | {}, kernel {}, {} |\n| machine | {} cores, {} of memory |\n",
        facts.os,
        facts.kernel,
        facts.architecture,
        facts.cores,
        bytes(facts.memory_bytes)
    );
    for tool in &facts.tools {
        let version = tool.version.as_deref().unwrap_or("not there");
        text.push_str(&format!("| {} | {} |\n", tool.name, cell(version)));
    }
    text
}

fn built(report: &Report) -> String {
    let mut text = String::new();
    if !report.programs.is_empty() {
        text.push_str("\n## Programs\n\n| program | version | SHA-256 |\n|---|---|---|\n");
        for program in &report.programs {
            let version = program.version.as_deref().unwrap_or("says none");
            text.push_str(&format!("| {} | {} | `{}` |\n", program.name, cell(version), program.sha256));
        }
    }
    if !report.packages.is_empty() {
        text.push_str("\n## Packages\n\n| plugin | customer | tier | platform | SHA-256 | of the tar |\n|---|---|---|---|---|---|\n");
        for package in &report.packages {
            text.push_str(&format!(
                "| {} {} | {} | {} | {} | `{}` | `{}` |\n",
                package.name,
                package.version,
                package.customer,
                package.tier,
                package.platform,
                package.sha256,
                package.tar_sha256
            ));
        }
    }
    text
}

fn steps(case: &Case) -> String {
    let mut text = format!("\n**{}** {}: {}", case.name, cell(&case.title), word(case.outcome));
    match &case.why {
        Some(why) => text.push_str(&format!(" ({})", cell(why))),
        None => text.push_str(&format!(", {}", span(case.took))),
    }
    text.push('\n');
    if !case.steps.is_empty() {
        text.push_str("\n| line | command | exit | time | |\n|---|---|---|---|---|\n");
        text.extend(case.steps.iter().map(step));
    }
    text
}

fn step(step: &Done) -> String {
    let number = |number: Option<String>| number.unwrap_or_default();
    format!(
        "| {} | {} | {} | {} | {} |\n",
        number(step.line.map(|line| line.to_string())),
        if step.command.is_empty() {
            String::new()
        } else {
            format!("`{}`", cell(&step.command).replace('`', "'"))
        },
        number(step.exit.map(|exit| exit.to_string())),
        span(step.took),
        match &step.why {
            Some(why) => cell(why),
            None => word(step.outcome).to_owned(),
        }
    )
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "**failed**",
        Outcome::Skipped => "skipped",
    }
}

/// Text within a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ⏎ ")
}

/// Text as it is, in a fence that it does not close.
fn fenced(text: &str) -> String {
    let mut fence = "```".to_owned();
    while text.contains(&fence) {
        fence.push('`');
    }
    format!("{fence}text\n{}\n{fence}\n", text.trim_end())
}
