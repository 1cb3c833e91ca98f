//! The end of power in the middle of it: `km` is killed at every call that changes a file, and the disk
//! is full at every size. What is installed is the old version or the new one, and the same command
//! again comes to its end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use km_package::tier::Tier;
use km_tests::{Finished, TestEnvironment, Tiny, binary, path};

use km_tests::versions::{self, expect_tidy, first, second, third, with};

/// The calls by which a program changes files. `?` where not every machine has one.
const CHANGES: &str = "openat,write,fsync,fdatasync,ftruncate,fchmod,mkdirat,unlinkat,symlinkat,linkat,renameat2,\
                       fchmodat,pwrite64,writev,copy_file_range,sendfile,fallocate,utimensat,\
                       ?open,?creat,?mkdir,?rmdir,?unlink,?symlink,?link,?rename,?renameat,?chmod,exit_group";

/// Something that is done to an installation.
struct Operation {
    /// The environment that it begins in.
    before: TestEnvironment,
    arguments: Vec<String>,
    /// The executable that is active before and after; none where nothing is installed.
    old: Option<Vec<u8>>,
    new: Option<Vec<u8>>,
    /// Where it is done twice, it is as before.
    is_undone_by_itself: bool,
    /// What was active did not verify.
    was_damaged: bool,
}

impl Operation {
    fn new(before: TestEnvironment, arguments: &[&str], old: Option<&Tiny>, new: Option<&Tiny>) -> Self {
        let arguments = ["plugins"].iter().chain(arguments).map(|&text| text.to_owned()).collect();
        let [old, new] = [old, new].map(|tiny| tiny.map(Tiny::executable));
        Self { before, arguments, old, new, is_undone_by_itself: false, was_damaged: false }
    }

    fn install(before: TestEnvironment, old: Option<&Tiny>, new: &Tiny) -> Self {
        let package = new.write(&before.path(""));
        Self::new(before, &["install", path(&package)], old, Some(new))
    }

    /// Every kill point, in a copy of the environment each. Returns how many there are.
    fn is_safe_at_every_call(&self) -> usize {
        let calls = self.calls();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(call) = calls.get(next.fetch_add(1, Ordering::Relaxed)) {
                        self.is_safe_at(call);
                    }
                });
            }
        });
        calls.len()
    }

    /// The calls that change files, and the end: which call it is, and the how manieth of its name.
    /// Between two of them nothing changes, so being killed before each is being killed after each.
    fn calls(&self) -> Vec<(String, usize)> {
        let environment = self.before.copy();
        let trace = environment.path("trace");
        let filter = format!("trace={CHANGES}");
        let finished = self.traced(&environment, &["-o", path(&trace), "-e", &filter]).expect(0);
        assert_eq!(self.active(&environment), self.new, "{finished:?}");
        let text = std::fs::read_to_string(&trace).unwrap();
        let mut counts = BTreeMap::<&str, usize>::new();
        let mut calls = Vec::new();
        for line in text.lines() {
            let (_, call) = line.split_once(' ').unwrap();
            let (name, arguments) = call.trim_start().split_once('(').unwrap();
            let count = counts.entry(name).or_default();
            *count += 1;
            if name != "openat" || ["O_CREAT", "O_TRUNC"].iter().any(|flag| arguments.contains(flag)) {
                calls.push((name.to_owned(), *count));
            }
        }
        // strace counts by thread.
        let pids = text.lines().map(|line| line.split_once(' ').unwrap().0);
        assert_eq!(pids.collect::<std::collections::BTreeSet<_>>().len(), 1, "{text}");
        assert!(calls.len() > 10 && calls.iter().any(|(name, _)| name == "fsync"), "{text}");
        calls
    }

    fn traced(&self, environment: &TestEnvironment, strace: &[&str]) -> Finished {
        let km = environment.command("km");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq"]).args(strace).arg(binary("km")).args(&self.arguments);
        command.env_clear().current_dir(environment.path("")).stdin(Stdio::null());
        command.envs(km.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.output().expect("strace runs").into()
    }

    fn is_safe_at(&self, (call, nth): &(String, usize)) {
        let environment = self.before.copy();
        let inject = format!("inject={call}:signal=KILL:when={nth}");
        let killed = self.traced(&environment, &["-o", "/dev/null", "-e", &inject]);
        let at = format!("{call} {nth} of {:?}: {killed:?}", self.arguments);
        assert_eq!(killed.code, -9, "not killed at {at}");

        let active = self.active(&environment);
        assert!(active == self.old || active == self.new, "neither old nor new after {at}");
        if active == self.old {
            let kept = [&environment, &self.before].map(versions::kept_executable);
            assert_eq!(kept[0], kept[1], "the version to go back to after {at}");
        }
        let arguments = self.arguments.iter().map(String::as_str);
        environment.km(arguments).expect(0);
        let expected = match self.is_undone_by_itself && active == self.new {
            true => &self.old,
            false => &self.new,
        };
        assert_eq!(self.active(&environment), *expected, "again after {at}");
        expect_tidy(&environment, &at);
    }

    /// The executable that is active: listed as installed, and verified in full by a start of it.
    fn active(&self, environment: &TestEnvironment) -> Option<Vec<u8>> {
        let active = versions::active_executable(environment);
        let status = environment.km(["plugins", "status", "--json"]).expect(0).json();
        let plugins = status["plugins"].as_array().unwrap();
        assert_eq!(plugins.len(), usize::from(active.is_some()), "{status}");
        for plugin in plugins {
            assert_eq!(plugin["state"], "installed", "{plugin}");
            // It is no program: that its start was tried says that every byte of it was verified.
            let is_sound = plugin["health"] == "failed" && plugin["error_kind"] == "plugin";
            assert!(is_sound || (self.was_damaged && active == self.old), "{plugin}");
        }
        active
    }
}

#[test]
fn a_first_installation() {
    let operation = Operation::install(with(&[]), None, &first());
    println!("{} kill points", operation.is_safe_at_every_call());
}

#[test]
fn an_upgrade() {
    // With one version kept already, which goes.
    let operation = Operation::install(with(&[first(), second()]), Some(&second()), &third());
    println!("{} kill points", operation.is_safe_at_every_call());
}

#[test]
fn another_tier_of_the_same_version() {
    let stamped = Tiny { tier: Tier::Enterprise, ..first() };
    let operation = Operation::install(with(&[first()]), Some(&first()), &stamped);
    println!("{} kill points", operation.is_safe_at_every_call());
}

#[test]
fn a_downgrade_to_the_version_that_is_kept() {
    let before = with(&[first(), second()]);
    let package = first().write(&before.path(""));
    let arguments = ["install", path(&package), "--allow-downgrade"];
    let operation = Operation::new(before, &arguments, Some(&second()), Some(&first()));
    println!("{} kill points", operation.is_safe_at_every_call());
}

#[test]
fn a_rollback() {
    let before = with(&[first(), second()]);
    let operation = Operation::new(before, &["rollback", "tiny"], Some(&second()), Some(&first()));
    let operation = Operation { is_undone_by_itself: true, ..operation };
    println!("{} kill points", operation.is_safe_at_every_call());
}

#[test]
fn a_removal() {
    let arguments = ["remove", "tiny", "--yes", "--if-present"];
    let operation = Operation::new(with(&[first(), second()]), &arguments, Some(&second()), None);
    println!("{} kill points", operation.is_safe_at_every_call());
}

#[test]
fn a_repair() {
    let before = with(&[first(), second()]);
    let executable = versions::active_path(&before);
    let damaged = vec![b'x'; std::fs::metadata(&executable).unwrap().len() as usize];
    std::fs::write(&executable, &damaged).unwrap();
    let operation = Operation::install(before, None, &second());
    let operation = Operation { old: Some(damaged), was_damaged: true, ..operation };
    println!("{} kill points", operation.is_safe_at_every_call());
}

#[test]
fn what_is_renamed_is_on_the_disk_before_and_its_folder_after() {
    let operation = Operation::install(with(&[]), None, &first());
    let environment = &operation.before;
    let trace = environment.path("trace");
    let calls = "trace=openat,mkdir,mkdirat,fsync,rename,renameat,renameat2,symlink,symlinkat";
    operation.traced(environment, &["-y", "-o", path(&trace), "-e", calls]).expect(0);
    let text = std::fs::read_to_string(&trace).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(path(&environment.home()))).collect();

    let plugins = environment.home().join("plugins");
    let store = plugins.join("store/tiny");
    let is_sync = |line: &str, path: &std::path::Path| {
        line.contains("fsync(") && line.contains(&format!("<{}>)", path.display()))
    };
    let at = |what: &str, is_it: &dyn Fn(&str) -> bool| {
        lines.iter().position(|line| is_it(line)).unwrap_or_else(|| panic!("{what}\n{text}"))
    };
    let synced_after = |line: usize, path: &std::path::Path| {
        lines[line..].iter().position(|later| is_sync(later, path)).map(|after| line + after)
    };
    let place = path(&versions::folders(environment)[0]).to_owned();
    let placed = at("the version is renamed", &|line| line.contains("rename") && line.contains(&place));
    let linked =
        at("the link is renamed", &|line| line.contains("rename") && line.contains(".km-plugin-tiny.new"));
    assert!(placed < linked, "{text}");

    // Every file in staging, and staging itself, before the version is renamed.
    let staged = PathBuf::from(lines[placed].split('"').nth(1).unwrap());
    let created: Vec<&str> = lines[..placed]
        .iter()
        .filter(|line| line.contains("O_CREAT") && line.contains(path(&staged)))
        .map(|line| line.split('"').nth(1).unwrap())
        .collect();
    assert_eq!(created.len(), 5, "{text}");
    for file in created.iter().map(PathBuf::from).chain([staged]) {
        assert!(synced_after(0, &file).is_some_and(|line| line < placed), "{}\n{text}", file.display());
    }
    // The folders that point to what was renamed, before anything builds on it.
    assert!(synced_after(placed, &store).is_some_and(|line| line < linked), "{text}");
    assert!(synced_after(linked, &plugins).is_some(), "{text}");
    for folder in [&plugins, &plugins.join("store"), &store] {
        let made = at("a folder is made", &|line| {
            line.contains("mkdir") && line.contains(&format!("{}\"", folder.display()))
        });
        assert!(synced_after(made, folder.parent().unwrap()).is_some_and(|line| line < linked), "{text}");
    }
}

/// A filesystem of its own for a home, so small that it fills.
pub(crate) struct SmallDisk {
    home: PathBuf,
}

impl SmallDisk {
    /// None where this user may not mount.
    pub(crate) fn mount(environment: &TestEnvironment, options: &str) -> Option<Self> {
        let home = environment.home();
        if !rustix::process::geteuid().is_root() {
            eprintln!("not root: no small disk can be made");
            return None;
        }
        std::fs::create_dir(&home).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&home).status();
        assert!(mounted.unwrap().success());
        Some(Self { home })
    }

    fn filler(&self, n: usize) -> PathBuf {
        self.home.join(format!("filler-{n}"))
    }

    /// Leaves so many pages.
    fn fill_space(&self, pages: u64) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.filler(0)).unwrap();
        let mut size = 0;
        while let Ok(written) = file.write(&[0; 4096]) {
            size += written as u64;
        }
        file.set_len(size - pages * 4096).unwrap();
    }

    /// Leaves so many files.
    fn fill_files(&self, files: u64) {
        let full = (0..).find(|n| std::fs::File::create(self.filler(*n)).is_err()).unwrap();
        for n in 0..usize::try_from(files).unwrap() {
            std::fs::remove_file(self.filler(full - 1 - n)).unwrap();
        }
    }

    fn empty(&self) {
        for n in (0..).take_while(|n| self.filler(*n).exists()) {
            std::fs::remove_file(self.filler(n)).unwrap();
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.home).status();
    }
}

/// A command that was told that there is no room: it says so, on which file, and leaves nothing.
fn expect_full(environment: &TestEnvironment, run: impl Fn() -> Finished, at: &str) -> bool {
    let before = environment.snapshot();
    let finished = run();
    if finished.code == 0 {
        return false;
    }
    let error = &finished.json()["error"];
    let [message, help] = ["message", "help"].map(|key| error[key].as_str().unwrap_or_default());
    let said = ["No space left on device", "File too large"].iter().any(|text| message.contains(text));
    assert_eq!((finished.code, &error["kind"]), (9, &"local".into()), "{at}: {finished:?}");
    assert!(said && message.contains(path(&environment.home())), "{at}: {message}");
    assert!(help.contains("the disk is full"), "{at}: {error}");
    let after = environment.snapshot();
    let differing = after.iter().find(|entry| !before.contains(entry)).map(|(path, _)| path);
    assert_eq!((differing, after.len()), (None, before.len()), "{at}: something was left");
    true
}

fn heavy(tiny: Tiny) -> Tiny {
    Tiny { ballast: 40_000, ..tiny }
}

#[test]
fn a_disk_that_is_full_at_any_size() {
    type Fill = fn(&SmallDisk, u64);
    let fills: [(&str, Fill); 2] =
        [("size=512k", SmallDisk::fill_space), ("nr_inodes=60", SmallDisk::fill_files)];
    for (options, fill) in fills {
        for installed in [None, Some(heavy(first()))] {
            let environment = TestEnvironment::empty();
            let Some(disk) = SmallDisk::mount(&environment, options) else { return };
            Tiny::trust(&environment);
            if let Some(tiny) = &installed {
                tiny.install(&environment);
            }
            let package = heavy(second()).write(&environment.path(""));
            let install = || environment.km(["plugins", "install", path(&package), "--json"]);
            let enough = (0..).find(|room| {
                fill(&disk, *room);
                let at = format!("{options}, room for {room}");
                let was_full = expect_full(&environment, install, &at);
                if was_full {
                    let expected = installed.as_ref().map(Tiny::executable);
                    assert_eq!(versions::active_executable(&environment), expected, "{at}");
                }
                disk.empty();
                !was_full
            });
            println!("{options}: {enough:?} were enough");
            assert!(enough > Some(5));
            assert_eq!(versions::active_executable(&environment), Some(heavy(second()).executable()));
            expect_tidy(&environment, "");
            if installed.is_some() {
                // Going back, and taking away, need next to nothing.
                fill(&disk, 2);
                environment.km(["plugins", "rollback", "tiny"]).expect(0);
                disk.empty();
                fill(&disk, 0);
                expect_full(
                    &environment,
                    || environment.km(["plugins", "rollback", "tiny", "--json"]),
                    "back",
                );
            }
            environment.km(["plugins", "remove", "tiny"]).expect(0);
        }
    }
}

#[test]
fn files_that_may_not_grow_are_a_full_disk() {
    let environment = with(&[heavy(first())]);
    let package = heavy(second()).write(&environment.path(""));
    let limited = |bytes: usize| {
        let km = environment.command("km");
        let mut command = Command::new("prlimit");
        command.arg(format!("--fsize={bytes}")).arg(km.get_program());
        command.args(["plugins", "install", path(&package), "--json"]);
        command.envs(km.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Finished::from(command.output().unwrap())
    };
    let size = heavy(second()).executable().len();
    for bytes in [0, 1, 11, 100, 1000, 4096, size - 1] {
        assert!(expect_full(&environment, || limited(bytes), &format!("{bytes} bytes")));
        assert_eq!(versions::active_executable(&environment), Some(heavy(first()).executable()));
    }
    limited(size).expect(0);
    assert_eq!(versions::active_executable(&environment), Some(heavy(second()).executable()));
}
