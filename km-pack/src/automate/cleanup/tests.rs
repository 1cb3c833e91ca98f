use std::fs::File;
use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;
use crate::automate::report::Outcome;

const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n";

/// A checkout with what belongs to the suite and what does not.
struct Place(tempfile::TempDir);

impl Place {
    fn new(files: &[&str]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for file in files {
            let path = place.path(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text = match path.file_name().unwrap().to_str() {
                Some("CACHEDIR.TAG") => TAG,
                Some("report.md") => "# Automation: passed\n",
                Some("lock") => "km-pack automate\n",
                _ => "x",
            };
            std::fs::write(path, text).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn clean(&self, quick: bool, in_use: &[&str], tracked: &[&str]) -> (Vec<Case>, Vec<String>) {
        self.clean_target("target", quick, in_use, tracked)
    }

    fn clean_target(
        &self,
        target: &str,
        quick: bool,
        in_use: &[&str],
        tracked: &[&str],
    ) -> (Vec<Case>, Vec<String>) {
        let (checkout, tracked) = (self.path("c"), tracked.iter().map(PathBuf::from).collect::<Vec<_>>());
        let ground = Ground {
            checkout: &checkout,
            products: &checkout.join("target/automate"),
            target: &checkout.join(target),
            reports: &checkout.join("logs"),
            temporary: &self.path("tmp"),
            in_use: in_use.iter().map(|file| checkout.join(file)).collect(),
            tracked: &tracked,
            quick,
        };
        let Cleanup { removals, kept } = ground.gather();
        let mut cases: Vec<Case> = removals.iter().map(|removal| ground.remove(removal)).collect();
        cases.extend(kept.iter().map(|kept| ground.keep(kept)));
        (cases, self.files())
    }

    fn files(&self) -> Vec<String> {
        fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
            for path in entries(folder) {
                if path.is_dir() && !path.is_symlink() {
                    walk(&path, root, found);
                } else {
                    found.push(path.strip_prefix(root).unwrap().display().to_string());
                }
            }
        }
        let mut found = Vec::new();
        walk(self.0.path(), self.0.path(), &mut found);
        found
    }
}

/// What stays, and why.
fn stays(cases: &[Case]) -> Vec<String> {
    let why = |case: &Case| Some(format!("{}: {}", case.name, case.why.as_ref()?.strip_prefix("stays: ")?));
    cases.iter().filter_map(why).collect()
}

const FILES: [&str; 18] = [
    "c/Cargo.toml",
    "c/dist/README.md",
    "c/dist/km-plugin-a-1.kmpkg",
    "c/dist/km.db",
    "c/dist/store/index/a.toml",
    "c/dist/store/packages/a.kmpkg",
    "c/keys/release.key.pem",
    "c/logs/mine.txt",
    "c/logs/report.md",
    "c/target/CACHEDIR.TAG",
    "c/target/automate/keys/release.key.pem",
    "c/target/automate/lock",
    "c/target/debug/deps/km_pack",
    "c/target/debug/km-pack",
    "c/target/debug/my.key.pem",
    "c/target/notes/my.key.pem",
    "home/.km/plugins/km-plugin-a",
    "tmp/other/file",
];

#[test]
fn what_is_not_the_suites_own_stays() {
    let place = Place::new(&FILES);
    let (cases, left) = place.clean(false, &["target/debug/km-pack"], &["Cargo.toml", "dist/README.md"]);
    assert!(!cases.iter().any(|case| case.outcome == Outcome::Failed), "{cases:?}");
    assert_eq!(stays(&cases), ["target/notes: not ours"]);
    let gone = ["km-plugin-a-1", "report.md", "automate/keys", "deps"];
    let stays: Vec<_> =
        FILES.into_iter().filter(|file| !gone.iter().any(|gone| file.contains(gone))).collect();
    assert_eq!(left, stays);
}

#[test]
fn quick_leaves_cargos_folder_and_packages() {
    let place = Place::new(&FILES);
    let (_, left) = place.clean(true, &[], &[]);
    let gone = ["report.md", "automate/keys"];
    let stays: Vec<_> =
        FILES.into_iter().filter(|file| !gone.iter().any(|gone| file.contains(gone))).collect();
    assert_eq!(left, stays);
}

#[test]
fn what_git_keeps_stays() {
    let place = Place::new(&FILES);
    let (cases, left) = place.clean(false, &[], &["dist/km-plugin-a-1.kmpkg", "target/debug/deps/km_pack"]);
    for kept in ["c/dist/km-plugin-a-1.kmpkg", "c/target/debug/deps/km_pack"] {
        assert!(left.iter().any(|file| file == kept), "{left:?}");
    }
    assert_eq!(stays(&cases), ["dist/km-plugin-a-1.kmpkg: git keeps it", "target: git keeps files in it"]);
}

#[test]
fn links_are_removed_and_not_followed() {
    let place = Place::new(&["c/target/CACHEDIR.TAG", "away/file", "far/a.kmpkg"]);
    symlink(place.path("away"), place.path("c/target/debug")).unwrap();
    symlink(place.path("far"), place.path("c/dist")).unwrap();
    let (_, left) = place.clean(false, &[], &[]);
    assert_eq!(left, ["away/file", "c/dist", "c/target/CACHEDIR.TAG", "far/a.kmpkg"]);
}

#[test]
fn a_target_folder_that_is_a_link_stays() {
    let place = Place::new(&["c/Cargo.toml", "away/CACHEDIR.TAG", "away/debug/km", "away/automate/x"]);
    symlink(place.path("away"), place.path("c/target")).unwrap();
    let (cases, left) = place.clean(false, &[], &[]);
    assert_eq!(left, ["away/CACHEDIR.TAG", "away/automate/x", "away/debug/km", "c/Cargo.toml", "c/target"]);
    assert!(cases.iter().any(|case| case.why.as_deref() == Some("stays: a symbolic link leads there")));
}

#[test]
fn only_abandoned_temporary_folders_go() {
    let place =
        Place::new(&["tmp/km-automate-old/lock", "tmp/km-automate-live/lock", "tmp/km-automate-new/lock"]);
    let past = SystemTime::now() - Duration::from_secs(3600);
    for old in ["tmp/km-automate-old", "tmp/km-automate-live"] {
        File::open(place.path(old)).unwrap().set_modified(past).unwrap();
    }
    let live = File::open(place.path("tmp/km-automate-live/lock")).unwrap();
    live.try_lock().unwrap();
    let (_, left) = place.clean(true, &[], &[]);
    assert_eq!(left, ["tmp/km-automate-live/lock", "tmp/km-automate-new/lock"]);
}

#[test]
fn a_lock_that_is_no_runs_stops_nothing() {
    let place =
        Place::new(&["tmp/km-automate-mine/notes", "tmp/km-automate-text/x", "tmp/km-automate-link/x"]);
    let fifo = place.path("tmp/km-automate-mine/lock");
    assert!(Command::new("mkfifo").arg(fifo).status().unwrap().success());
    std::fs::write(place.path("tmp/km-automate-text/lock"), "another's").unwrap();
    std::fs::write(place.path("tmp/lock"), "km-pack automate\n").unwrap();
    symlink(place.path("tmp/lock"), place.path("tmp/km-automate-link/lock")).unwrap();
    let past = SystemTime::now() - Duration::from_secs(3600);
    for old in ["mine", "text", "link"] {
        File::open(place.path(&format!("tmp/km-automate-{old}"))).unwrap().set_modified(past).unwrap();
    }
    let before = place.files();
    assert_eq!(place.clean(false, &[], &[]).1, before);
}

#[test]
fn a_target_folder_that_may_be_no_target_stays() {
    let files = [
        "away/CACHEDIR.TAG",
        "away/debug/x",
        "c/.git/CACHEDIR.TAG",
        "c/.git/debug/x",
        "c/CACHEDIR.TAG",
        "c/debug/x",
        "c/dist/CACHEDIR.TAG",
        "c/dist/debug/x",
        "c/docs/x",
        "c/keys/sub/CACHEDIR.TAG",
        "c/keys/sub/debug/x",
        "c/other/.git",
        "c/other/target/CACHEDIR.TAG",
        "c/other/target/debug/x",
        "c/src/CACHEDIR.TAG",
        "c/src/debug/x",
        "c/src/lib.rs",
    ];
    let place = Place::new(&files);
    for (target, why) in [
        (".", "it is the checkout"),
        ("src/..", "it is the checkout"),
        ("../away", OUTSIDE),
        ("docs/../../away", OUTSIDE),
        (".git", "what lies there cannot be made again"),
        ("dist", "what lies there cannot be made again"),
        ("docs/../keys/sub", "what lies there cannot be made again"),
        ("other/target", "it lies in another checkout"),
        ("src", "git keeps files in it"),
    ] {
        let before = place.files();
        let (cases, left) = place.clean_target(target, false, &[], &["src/lib.rs", "docs/x"]);
        assert_eq!(left, before, "{target}");
        assert!(stays(&cases)[0].ends_with(why), "{target}: {cases:?}");
    }
}

#[test]
fn a_tag_that_is_not_cargos_is_none() {
    let place = Place::new(&["c/target/CACHEDIR.TAG", "c/target/debug/x"]);
    std::fs::write(place.path("c/target/CACHEDIR.TAG"), "x").unwrap();
    let (cases, left) = place.clean(false, &[], &[]);
    assert_eq!(left, ["c/target/CACHEDIR.TAG", "c/target/debug/x"]);
    assert_eq!(stays(&cases), ["target: its CACHEDIR.TAG is not cargo's"]);
}

#[test]
fn what_somebody_put_into_target_stays() {
    let mine = [
        "c/target/CACHEDIR.TAG",
        "c/target/automate/km.db",
        "c/target/km.db",
        "c/target/my-old-notes/debug/x",
        "c/target/my-old-notes/diary",
        "c/target/store/index/a.toml",
        "c/target/worktree/.git",
    ];
    let made = ["c/target/aarch64-unknown-linux-gnu/debug/x", "c/target/lint/y", "c/target/.rustc_info.json"];
    let place = Place::new(&[&mine[..], &made].concat());
    let (cases, left) = place.clean(false, &[], &[]);
    assert_eq!(left, mine);
    assert_eq!(
        stays(&cases),
        ["automate/km.db", "km.db", "my-old-notes", "store", "worktree"]
            .map(|name| format!("target/{name}: not ours"))
    );
}

#[test]
fn only_the_suites_own_reports_go() {
    let place = Place::new(&["c/logs/report.md", "c/logs/junit.xml", "away/report.md"]);
    let (cases, left) = place.clean(true, &[], &[]);
    assert_eq!(left, ["away/report.md", "c/logs/junit.xml"]);
    assert_eq!(stays(&cases), ["logs/junit.xml: not ours"]);
    std::fs::remove_dir_all(place.path("c/logs")).unwrap();
    symlink(place.path("away"), place.path("c/logs")).unwrap();
    let (cases, left) = place.clean(true, &[], &[]);
    assert_eq!(left, ["away/report.md", "c/logs"]);
    assert!(stays(&cases)[0].ends_with(OUTSIDE), "{cases:?}");
}

const HOME: [&str; 9] = [
    "km/cache/a-12345678.token",
    "km/cache/mine",
    "km/config/config.toml",
    "km/plugins/index/customer",
    "km/plugins/km-plugin-a",
    "km/plugins/src/lib.rs",
    "km/plugins/store/a/1",
    "km/spool/s/1",
    "km/trust/k.pub.pem",
];

#[test]
fn of_a_home_only_what_km_made_goes() {
    let place = Place::new(&HOME);
    let removals = Home::find(&place.path("km/")).unwrap().removals();
    let found: Vec<_> =
        removals.iter().map(|removal| removal.path.strip_prefix(place.path("km")).unwrap()).collect();
    let made = ["plugins/index", "plugins/km-plugin-a", "plugins/store", "cache/a-12345678.token"];
    assert_eq!(found, made.map(Path::new));
}

#[test]
fn nothing_of_a_home_is_reached_through_a_link() {
    let place = Place::new(&["away/a.token", "away/index/x", "km/plugins/store/a/1", "km/trust/k.pub.pem"]);
    symlink(place.path("away"), place.path("km/cache")).unwrap();
    symlink(place.path("away/index"), place.path("km/plugins/index")).unwrap();
    let removals = Home::find(&place.path("km")).unwrap().removals();
    let found: Vec<_> = removals.iter().map(|removal| &removal.path).collect();
    assert_eq!(found, [&place.path("km/plugins/store")]);
}

#[test]
fn not_every_folder_is_a_home() {
    let refused = |place: &Place, folder: &str| {
        let failure = Home::find(&place.path(folder)).unwrap_err();
        assert!(failure.message.contains("is no KM_HOME"), "{failure}");
    };
    let place = Place::new(&HOME);
    symlink(place.path("km"), place.path("link")).unwrap();
    for folder in ["link", "link/", "km/plugins", "km/config/config.toml", "."] {
        refused(&place, folder);
    }
    for missing in ["plugins/store", "config"] {
        let place = Place::new(&HOME);
        std::fs::remove_dir_all(place.path("km/trust")).unwrap();
        std::fs::remove_dir_all(place.path("km").join(missing)).unwrap();
        refused(&place, "km");
    }
    for checkout in ["km/.git", ".git/HEAD", "km/automate.toml"] {
        let place = Place::new(&[&HOME[..], &[checkout]].concat());
        refused(&place, "km");
    }
    let failure = Home::find(&place.path("nowhere")).unwrap_err();
    assert_eq!(failure.kind, km_package::failure::Kind::NotFound);
}

#[test]
fn sizes_are_for_people() {
    assert_eq!([12, 1_200, 1_200_000, 5_400_000_000].map(bytes), ["12 B", "1 kB", "1.2 MB", "5.4 GB"]);
}
