//! The wheel: `deploy/wheel` makes it of the static binary, pip installs it into a new environment,
//! and coring runs applications there, on the interpreter of that environment.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{
    Coring, Finished, PYTHON, TempDir, python_with_tools, run, run_with, static_binary,
    without_settings,
};

/// The interpreters to install it for, separated by spaces; `python3` unless given.
const PYTHONS: &str = "CORING_TEST_PYTHONS";

/// An application that names the environment and the interpreter that it runs in.
const APPLICATION: &str = "\
import sys


def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [f'{sys.prefix} {sys.version.split()[0]}'.encode()]
";

/// A server that is started from code, asked, and stopped.
const IN_CODE: &str = "\
from urllib.request import urlopen
from app import app
from coring.pywsgi import WSGIServer
server = WSGIServer(('127.0.0.1', 0), app, log=None)
server.start()
print(urlopen(f'http://127.0.0.1:{server.server_port}/').read().decode())
server.stop()
";

/// Runs `deploy/wheel`.
fn make_wheel(binary: &Path, output: &Path) -> Finished {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/wheel");
    let arguments: [&OsStr; 4] = [
        "--binary".as_ref(),
        binary.as_ref(),
        "--output".as_ref(),
        output.as_ref(),
    ];
    run_with(Command::new(script).args(arguments), b"")
}

/// The only file in a directory.
fn only_file(directory: &Path) -> PathBuf {
    let files: Vec<_> = fs::read_dir(directory).expect("a directory").collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.into_iter().flatten().next().expect("a file").path()
}

#[test]
fn the_wheel_is_installed_by_pip_and_runs_applications() {
    let directory = TempDir::new();
    let dist = directory.path().join("dist");
    make_wheel(&static_binary(), &dist).succeeded();
    let wheel = only_file(&dist);
    let architecture = std::env::consts::ARCH;
    let version = env!("CARGO_PKG_VERSION");
    let name = format!(
        "coring-{version}-py3-none-manylinux_2_17_{architecture}.musllinux_1_1_{architecture}.whl"
    );
    assert_eq!(wheel.file_name(), Some(name.as_ref()));
    let mut check = Command::new(python_with_tools());
    check.args(["-m", "twine", "check", "--strict"]).arg(&wheel);
    run_with(&mut check, b"").succeeded();
    directory.write("app.py", APPLICATION);
    let pythons = std::env::var(PYTHONS).unwrap_or_else(|_| "python3".to_owned());
    for (number, python) in pythons.split_whitespace().enumerate() {
        let environment = directory.file(&format!("environment-{number}"));
        run(python, &["-m", "venv", &environment]);
        let program = |name: &str| format!("{environment}/bin/{name}");
        let mut install = Command::new(program("python"));
        install.args(["-m", "pip", "install", "--no-index", "--no-deps"]);
        install.arg("--disable-pip-version-check").arg(&wheel);
        run_with(&mut install, b"").succeeded();
        let text = run(&program("coring"), &["--version"]);
        assert_eq!(text.trim_end(), format!("coring {version}"));
        let text = run(&program("python"), &["-m", "coring", "version"]);
        assert!(text.starts_with(&format!("coring {version}")), "{text}");
        let code = "import sys; print(sys.prefix, sys.version.split()[0])";
        let expected = run(&program("python"), &["-c", code]);
        for start in [&["coring"][..], &["python", "-m", "coring"]] {
            let arguments = ["run", "app.py", "--bind=127.0.0.1:0"];
            let arguments = [&start[1..], &arguments].concat();
            let mut command = without_settings(program(start[0]), &arguments);
            command.env_remove("VIRTUAL_ENV").env_remove(PYTHON);
            command.current_dir(directory.path());
            let server = Coring::start_as(command);
            assert_eq!(server.get("/").text(), expected.trim_end(), "{start:?}");
            server.stop();
        }
        let mut in_code = without_settings(program("python"), &["-c", IN_CODE]);
        in_code.current_dir(directory.path());
        assert_eq!(run_with(&mut in_code, b"").succeeded(), expected);
    }
}

#[test]
fn the_same_binary_makes_the_same_wheel() {
    let directory = TempDir::new();
    let wheels = ["a", "b"].map(|name| {
        let dist = directory.path().join(name);
        make_wheel(&static_binary(), &dist).succeeded();
        fs::read(only_file(&dist)).expect("a wheel")
    });
    assert!(wheels[0] == wheels[1]);
}

#[test]
fn a_program_that_needs_a_loader_makes_no_wheel() {
    let directory = TempDir::new();
    let script = directory.write("script", "#!/bin/sh\n");
    for (binary, reason) in [
        (env!("CARGO_BIN_EXE_coring"), "the binary is not static"),
        (&script, "the binary is not a 64-bit ELF file"),
    ] {
        let finished = make_wheel(binary.as_ref(), &directory.path().join("dist"));
        assert_eq!(finished.code, Some(1));
        assert!(finished.error_line().contains(reason), "{finished:?}");
    }
}
