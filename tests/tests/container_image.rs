//! The image of `weftd`: made from the programs under test by its recipe, with nothing pulled, and
//! run.

use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use weft_tests::net::Net;
use weft_tests::podman::{Podman, skip};
use weft_tests::{DEADLINE, bin_dir, eventually, http_get, run};

const TAG: &str = "localhost/weft:test";
/// Of the user in the image.
const UID: u32 = 743;

#[test]
fn the_image_is_made_without_pulling_anything_and_a_node_in_it_becomes_ready() {
    if skip() {
        return;
    }
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/container");
    let dir = tempfile::tempdir().expect("a directory");
    let context = dir.path().join("context");
    let made = run(Command::new("sh").arg(recipe.join("context.sh")).arg(bin_dir()).arg(&context));
    assert_eq!(made.code, 0, "{made:?}");

    let Some(net) = Net::new(1) else { return };
    let podman = Podman::start(&net, 0);
    let file = recipe.join("Containerfile");
    let (file, context) = (file.to_string_lossy(), context.to_string_lossy());
    podman.podman(&["build", "--pull=never", "--quiet", "-t", TAG, "-f", &file, &context]).ok();

    let run_in = |arguments: &[&str]| {
        let host = ["run", "--rm", "--network", "host"];
        podman.podman(&[&host, arguments].concat()).ok().stdout
    };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(run_in(&[TAG, "--version"]).trim(), format!("weftd {version}"));
    assert_eq!(run_in(&["--entrypoint", "weft", TAG, "version"]).trim(), format!("weft {version}"));

    let mounted = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).expect("a directory");
        chown(&path, Some(UID), Some(UID)).expect("given away");
        path.to_string_lossy().into_owned()
    };
    let data = format!("{}:/var/lib/weft", mounted("data"));
    let cli = format!("{}:/cli", mounted("cli"));
    run_in(&[
        "-v",
        &data,
        "-v",
        &cli,
        "-e",
        "WEFT_CONFIG=/cli/weft.toml",
        "--entrypoint",
        "weft",
        TAG,
        "init",
        "--data",
        "/var/lib/weft/node",
    ]);
    podman.podman(&["run", "-d", "--name", "weft", "--network", "host", "-v", &data, TAG]).ok();
    let ready = || {
        let answer = net.inside(0, || http_get("http://127.0.0.1:9765/readyz"));
        matches!(answer, Ok((200, _))).then_some(())
    };
    let begun = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("the node in the container is ready", ready);
    }));
    if begun.is_err() {
        panic!("not ready in {DEADLINE:?}: {:?}", podman.podman(&["logs", "weft"]));
    }
    // Told to stop, it stops by itself.
    podman.podman(&["stop", "--time", "20", "weft"]).ok();
    assert_eq!(podman.field("weft", "{{.State.ExitCode}}"), "0");
}
