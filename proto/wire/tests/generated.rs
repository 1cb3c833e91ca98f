//! The generated code in the repository is what the .proto files give.

use std::path::Path;

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = tempfile::tempdir().unwrap();
    let sources = ["kilometersplugin.proto", "kilometers_plugin_v2.proto"];
    let files = protox::compile(sources, [root.join("proto")]).unwrap();
    tonic_prost_build::configure().bytes(".").out_dir(fresh.path()).compile_fds(files).unwrap();
    for name in ["kilometersplugin.rs", "kilometers.plugin.v2.rs"] {
        let fresh = std::fs::read_to_string(fresh.path().join(name)).unwrap();
        let committed = root.join("src/generated").join(name);
        if std::env::var_os("KM_REGENERATE").is_some() {
            std::fs::write(&committed, &fresh).unwrap();
        }
        assert!(
            std::fs::read_to_string(&committed).unwrap_or_default() == fresh,
            "{} is not what the .proto gives: KM_REGENERATE=1 cargo test -p km-proto",
            committed.display()
        );
    }
}
