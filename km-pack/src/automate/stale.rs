//! Whether programs were built of the source as it is now.

use std::path::Path;
use std::time::SystemTime;

use km_package::failure::{Failure, Kind};

use super::build::PROGRAMS;

/// Refuses programs that are older than a file they are made of, by what cargo wrote beside them
/// (`km.d`: the program, a colon, and its sources).
///
/// # Errors
/// What is older than what.
pub(super) fn refuse_older_than_source(programs: &Path) -> Result<(), Failure> {
    for name in PROGRAMS {
        let program = programs.join(name);
        let Ok(built) = modified(&program) else { continue };
        let Ok(list) = std::fs::read_to_string(program.with_extension("d")) else { continue };
        // A commit changes what `km version` says, and nothing that is tested.
        let mut sources =
            sources(&list).filter(|source| !source.components().any(|part| part.as_os_str() == ".git"));
        let newer = sources.find(|source| modified(source).is_ok_and(|time| time > built));
        if let Some(source) = newer {
            let what = format!("{} is older than {}", program.display(), source.display());
            return Err(Failure::new(Kind::Failed, what).help("add --phase build"));
        }
    }
    Ok(())
}

fn modified(path: &Path) -> std::io::Result<SystemTime> {
    std::fs::metadata(path)?.modified()
}

/// The files behind the colon; a space within a name is escaped.
fn sources(list: &str) -> impl Iterator<Item = std::path::PathBuf> {
    let line = list.lines().next().unwrap_or_default();
    let files = line.split_once(": ").map_or("", |(_, files)| files);
    let escaped = files.replace("\\ ", "\0");
    let files: Vec<_> = escaped.split_whitespace().map(|file| file.replace('\0', " ").into()).collect();
    files.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_no_older_than_what_it_is_made_of() {
        let folder = tempfile::tempdir().unwrap();
        let (program, source) = (folder.path().join("km"), folder.path().join("a b.rs"));
        let second = |n| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(n);
        for (path, time) in [(&program, 10), (&source, 9)] {
            std::fs::File::create(path).unwrap().set_modified(second(time)).unwrap();
        }
        let list = format!("{}: {}\n", program.display(), source.display().to_string().replace(' ', "\\ "));
        std::fs::write(program.with_extension("d"), list).unwrap();
        refuse_older_than_source(folder.path()).unwrap();
        std::fs::File::options().write(true).open(&source).unwrap().set_modified(second(11)).unwrap();
        let failure = refuse_older_than_source(folder.path()).unwrap_err();
        assert!(failure.message.ends_with("a b.rs"), "{failure}");
    }
}
