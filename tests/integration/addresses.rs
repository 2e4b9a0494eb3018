//! The addresses that the program binds: all of a name, abstract ones, and those given twice.

use std::io::Write;
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::Command;

use crate::support::{Coring, GET, TempDir, coring, report, run_with};

/// The ports of the banner's addresses that begin with `host`.
fn ports(banner: &str, host: &str) -> Vec<u16> {
    let begin = format!("http://{host}:");
    let rests = banner.split(&begin).skip(1);
    rests
        .filter_map(|rest| rest.split('/').next()?.parse().ok())
        .collect()
}

#[test]
fn all_addresses_of_a_name_are_bound() {
    let server = Coring::start_as(coring(&["-b", "localhost:0", "--stats"]));
    let banner = server.stderr();
    let v4 = ports(&banner, "127.0.0.1");
    assert_eq!(v4, [server.address().port()], "{banner}");
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return report("not tested: IPv6 addresses of a name, because this machine has no IPv6");
    }
    assert_eq!(ports(&banner, "[::1]"), v4, "{banner}");
    TcpStream::connect(("::1", v4[0])).expect("a connection");
    server.stop();
}

#[test]
fn an_abstract_socket_has_no_file() {
    let directory = TempDir::new();
    let name = format!("coring-test-{}", std::process::id());
    let mut command = coring(&["-b", &format!("unix:@{name}"), "--stats"]);
    command.current_dir(directory.path());
    let server = Coring::start_as(command);
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let mut stream = UnixStream::connect_addr(&address).expect("a connection");
    stream.write_all(GET.as_bytes()).expect("a peer");
    assert!(!directory.path().join(format!("@{name}")).exists());
    drop(stream);
    server.stop();
}

#[test]
fn an_address_that_is_given_twice_blames_no_other_process() {
    let directory = TempDir::new();
    let path = format!("unix:{}", directory.file("socket"));
    let name = format!("unix:@{}", directory.file("name"));
    for address in [path, name] {
        let finished = run_with(&mut coring(&["-b", &address, "-b", &address]), b"");
        assert_eq!(finished.code, Some(1), "{}", finished.stderr);
        let line = finished.error_line();
        assert!(line.contains("it is given twice"), "{line}");
    }
}

/// Starts coring on `[::]` and prints the status line that a client gets on 127.0.0.1.
const V4_CLIENT: &str = r#"
import socket, subprocess, sys
coring = subprocess.Popen([sys.argv[1], "-b", "[::]:0"], stderr=subprocess.PIPE, text=True)
for line in coring.stderr:
    if "http://[::]:" in line:
        port = int(line.split("http://[::]:")[1].split("/")[0])
        break
try:
    client = socket.create_connection(("127.0.0.1", port), 60)
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    print(client.makefile("rb").readline().decode())
finally:
    coring.kill()
"#;

#[test]
fn every_address_includes_ipv4_whatever_the_sysctl_says() {
    let script = "echo 1 > /proc/sys/net/ipv6/bindv6only && ip link set lo up && exec \"$@\"";
    let within = |program: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--map-root-user", "sh", "-c", script, "sh"]);
        run_with(command.args(program), b"")
    };
    if within(&["true"]).code != Some(0) {
        return report("not tested: bindv6only, because no network namespace can be made");
    }
    let program = env!("CARGO_BIN_EXE_coring");
    let finished = within(&["python3", "-c", V4_CLIENT, program]);
    assert!(
        finished.stdout.starts_with("HTTP/1.1 200"),
        "{}",
        finished.stderr
    );
}
