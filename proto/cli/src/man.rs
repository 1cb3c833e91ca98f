//! Man pages, made from what `--help` is made from.

use std::fs;
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap::{Args, CommandFactory};
use clap_mangen::roff::{Roff, bold, roman};
use km_package::failure::{Failure, Kind};
use serde::Serialize;

use crate::Output;

/// Print the man page, or write those of all commands
#[derive(Debug, Args)]
pub struct Man {
    /// Write a page for each command into this folder (`man1` of a man path), made when missing
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Printed<'a> {
    page: &'a str,
}

#[derive(Debug, Serialize)]
struct Written {
    pages: Vec<PathBuf>,
}

impl Man {
    /// Makes the pages of the command `C`.
    ///
    /// # Errors
    /// When a page cannot be written.
    pub fn run<C: CommandFactory>(&self, output: &Output) -> Result<(), Failure> {
        let pages = pages(C::command());
        match &self.out {
            None => output.result(&Printed { page: &pages[0].text }, &pages[0].text),
            Some(folder) => {
                let pages = write(&pages, folder)?;
                let lines: String = pages.iter().map(|path| format!("{}\n", path.display())).collect();
                output.result(&Written { pages }, lines);
            }
        }
        Ok(())
    }
}

/// One page of section 1.
struct Page {
    file: String,
    text: String,
}

fn write(pages: &[Page], folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    fs::create_dir_all(folder).map_err(|e| Failure::file("make the folder", folder, &e))?;
    let write = |page: &Page| {
        let path = folder.join(&page.file);
        fs::write(&path, &page.text).map_err(|e| Failure::file("write", &path, &e))?;
        Ok(path)
    };
    pages.iter().map(write).collect()
}

/// The page of a program, then those of its commands.
fn pages(program: clap::Command) -> Vec<Page> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let mut pages = Vec::new();
    collect(&program, &program, &mut pages);
    pages
}

fn collect(program: &clap::Command, command: &clap::Command, pages: &mut Vec<Page>) {
    pages.push(page(program, command));
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        collect(program, command, pages);
    }
}

/// The name that a command's page has: `km-plugins-install`.
fn name(command: &clap::Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

fn page(program: &clap::Command, command: &clap::Command) -> Page {
    let version = program.get_version().and_then(|version| version.split(' ').next()).unwrap_or_default();
    // Examples have a section of their own, and the version stands at the foot of the page.
    let shown = command.clone().after_help(Resettable::Reset).version(Resettable::Reset);
    let man = clap_mangen::Man::new(shown)
        .title(name(command).to_uppercase())
        .source(format!("{} {version}", program.get_name()))
        .manual("Kilometers");
    let mut text = Vec::new();
    // A Vec takes every write.
    let _ = man.render(&mut text);
    let mut more = Roff::default();
    examples(&mut more, command);
    exit_status(&mut more);
    see_also(&mut more, program, command);
    let text = String::from_utf8_lossy(&text).into_owned() + &more.to_roff();
    Page { file: format!("{}.1", name(command)), text: ascii(&text) }
}

/// troff reads ASCII; the rest has names.
fn ascii(text: &str) -> String {
    let name = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) };
    text.chars().map(name).collect()
}

fn examples(roff: &mut Roff, command: &clap::Command) {
    let Some(help) = command.get_after_help() else { return };
    let help = help.to_string();
    roff.control("SH", ["EXAMPLES"]).control("nf", []);
    // Without their heading.
    for line in help.lines().skip(1) {
        roff.text([roman(line.trim_start())]);
    }
    roff.control("fi", []);
}

fn exit_status(roff: &mut Roff) {
    roff.control("SH", ["EXIT STATUS"]);
    let meanings = Kind::ALL.map(|kind| (kind.code(), kind.meaning()));
    for (code, meaning) in [(0, "done")].into_iter().chain(meanings) {
        roff.control("TP", []).text([bold(code.to_string())]).text([roman(meaning)]);
    }
}

fn see_also(roff: &mut Roff, program: &clap::Command, command: &clap::Command) {
    let above = parent(program, name(command));
    let below = command.get_subcommands().filter(|command| !command.is_hide_set()).map(name);
    let pages: Vec<String> = above.into_iter().chain(below).map(|page| format!("{page}(1)")).collect();
    if !pages.is_empty() {
        roff.control("SH", ["SEE ALSO"]).text([roman(pages.join(", "))]);
    }
}

/// The page of the command that has this one.
fn parent<'a>(command: &'a clap::Command, page: &str) -> Option<&'a str> {
    match command.get_subcommands().any(|below| name(below) == page) {
        true => Some(name(command)),
        false => command.get_subcommands().find_map(|below| parent(below, page)),
    }
}
