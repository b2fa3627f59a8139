//! Programs as people use them, unmodified, through a cluster that translates their flows: web, names, a shell, a
//! measurement of throughput, echoes. All of it once more when the node is dead that had the shell's connection, which
//! goes on.
//!
//! Needs root and the Debian packages nginx-light, curl, iperf3, openssh-server, openssh-client, dnsmasq-base,
//! bind9-dnsutils, iputils-ping; ignored, with the reason, without them.

mod programs;
#[allow(dead_code, reason = "each file of tests uses its part")]
mod standing;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use standing::Standing;

const NODES: u8 = 3;
const SERVERS: [&str; 2] = ["10.20.2.1", "fd20::2:1"];
/// What the server sees of whom it serves.
const CLUSTER: [&str; 2] = ["10.20.0.1", "fd20::1"];
/// Seconds within which a program has to be done that has nothing to wait for.
const SOON: &str = "20";
/// How long an answer in the shell may take: as long as a sender waits before it tries again, several times over.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory with what the programs need, and the programs that were started. They end with it.
struct Programs {
    directory: PathBuf,
    running: Vec<Child>,
}

impl Programs {
    fn new(standing: &Standing) -> Self {
        let directory = std::env::temp_dir().join(standing.name());
        fs::create_dir_all(&directory).expect("a directory");
        // Programs that give up root read there, too.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("its rights");
        Self { directory, running: Vec::new() }
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.directory.join(name);
        fs::write(&path, content).expect("a file");
        path.display().to_string()
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Starts a program that serves, on the server.
    fn serve(&mut self, standing: &Standing, program: &str, arguments: &[&str]) {
        let log = fs::File::create(self.directory.join(format!("{}.out", self.running.len())));
        let log = log.expect("a log");
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().expect("a log"));
        command.stderr(log);
        let child = standing.inside("server", || command.spawn());
        self.running.push(child.unwrap_or_else(|error| panic!("start {program}: {error}")));
    }

    fn serve_all(&mut self, standing: &Standing) {
        let page = self.file("page", &"a page of a website\n".repeat(5_000));
        let (access, directory) = (self.path("access.log"), self.directory.display().to_string());
        let listens: String =
            ["10.20.2.1:80", "[fd20::2:1]:80"].map(|l| format!("listen {l};")).concat();
        let nginx = format!(
            "daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;\n\
             events {{}}\nhttp {{ access_log {access}; client_body_temp_path {directory}/b; \
             proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; \
             scgi_temp_path {directory}/s; server {{ {listens} root {directory}; }} }}\n"
        );
        assert!(Path::new(&page).exists());
        let nginx = self.file("nginx.conf", &nginx);
        self.serve(standing, "/usr/sbin/nginx", &["-c", &nginx]);
        self.serve(standing, "iperf3", &["-s"]);
        let names =
            ["--conf-file=/dev/null", "-k", "-R", "-h", "--address=/gateway.test/192.0.2.77"];
        let names = [&names[..], &["--bind-interfaces", "--pid-file", "--user=root"]].concat();
        self.serve(standing, "dnsmasq", &names);
        for key in ["host", "own"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f", &self.path(key)])
                .status();
            assert!(made.expect("start ssh-keygen").success());
        }
        let sshd = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin yes\nPasswordAuthentication no\n",
            self.path("host"),
            self.path("own.pub"),
        );
        let sshd = self.file("sshd_config", &sshd);
        fs::create_dir_all("/run/sshd").expect("the directory that sshd wants");
        self.serve(standing, "/usr/sbin/sshd", &["-D", "-e", "-f", &sshd]);
    }

    /// What the programs have written, for who looks for what went wrong.
    fn said(&self) -> String {
        let files = fs::read_dir(&self.directory).expect("the directory");
        let texts = files.filter_map(|file| {
            let path = file.ok()?.path();
            let name = path.file_name()?.to_string_lossy().into_owned();
            let wanted = name.ends_with(".out") || name.ends_with("error.log");
            wanted.then(|| format!("{name}:\n{}", fs::read_to_string(&path).unwrap_or_default()))
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    /// Whom the web server has served.
    fn visitors(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.join("access.log")).unwrap_or_default();
        text.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Runs a program on the client, to its end.
fn client(standing: &Standing, program: &str, arguments: &[&str]) -> Output {
    standing.inside("client", || {
        Command::new(program).args(arguments).stdin(Stdio::null()).output().expect("it starts")
    })
}

/// The same; it has to succeed, and gives what it printed.
fn answer(standing: &Standing, programs: &Programs, program: &str, arguments: &[&str]) -> String {
    let output = client(standing, program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}\n{}", programs.said());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A web page, a name, an echo, a transfer, a command in a shell: each over both families.
fn every_program(standing: &Standing, programs: &Programs) {
    for server in SERVERS {
        let ask =
            |program: &str, arguments: &[&str]| answer(standing, programs, program, arguments);
        let host = if server.contains(':') { format!("[{server}]") } else { server.to_owned() };
        let page = ask("curl", &["-sS", "-g", "-m", SOON, &format!("http://{host}/page")]);
        assert_eq!(page.len(), 100_000, "{server}");
        // A rule lets nobody in there.
        let refused =
            client(standing, "curl", &["-sS", "-g", "-m", "2", &format!("http://{host}:81/")]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(28), "nothing answers: {said}");
        // More than one connection, of more than one node.
        let urls: Vec<String> = (0..12).map(|n| format!("http://{host}/page?{n}")).collect();
        for url in &urls {
            ask("curl", &["-sS", "-g", "-m", SOON, "-o", "/dev/null", "--fail", url]);
        }
        let server_of_names = format!("@{server}");
        for _ in 0..12 {
            let dig = ["+short", "+tries=3", "+time=2", &server_of_names, "host.gateway.test", "A"];
            assert_eq!(ask("dig", &dig).trim(), "192.0.2.77");
        }
        let echoes = ask("ping", &["-c", "5", "-i", "0.2", "-w", "10", server]);
        assert!(echoes.contains(" 0% packet loss"), "{echoes}");
        let measured = ask("iperf3", &["-J", "-c", server, "-t", "1", "-P", "4", "-R"]);
        let bytes = received(&measured);
        assert!(bytes > 1_000_000, "{server}: {bytes} bytes in a second: {measured}");
        let said = Shell::open(standing, programs, server).say("once more");
        assert_eq!(said, "heard once more");
    }
}

fn received(report: &str) -> u64 {
    let report: Value = serde_json::from_str(report).expect("a report");
    report.pointer("/end/sum_received/bytes").and_then(Value::as_u64).expect("a number of bytes")
}

/// A shell on the server that answers each line.
struct Shell {
    ssh: Child,
    lines: Receiver<String>,
}

impl Shell {
    fn open(standing: &Standing, programs: &Programs, server: &str) -> Self {
        let mut command = Command::new("ssh");
        for option in ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        {
            command.args(["-o", option]);
        }
        command.args(["-i", &programs.path("own"), &format!("root@{server}")]);
        command.arg("while read line; do echo heard $line; done");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut ssh = standing.inside("client", || command.spawn()).expect("start ssh");
        let output = ssh.stdout.take().expect("its output");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { ssh, lines }
    }

    fn say(&mut self, words: &str) -> String {
        let input = self.ssh.stdin.as_mut().expect("its input");
        writeln!(input, "{words}").expect("it reads");
        self.lines.recv_timeout(PATIENCE).expect("the shell answers")
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

/// The node that handles the open connection to this port of the server.
fn owner(standing: &Standing, port: u16) -> String {
    let open = |flow: &Value| flow["responder"]["port"] == port && flow["phase"] == "established";
    let has = |node: &String| {
        let shown = standing.ask(node, &["flow", "show", "--table", "node"]).expect("flows");
        shown["flows"].as_array().expect("a list").iter().any(open)
    };
    let nodes: Vec<String> = (1..=NODES).map(|node| format!("n{node}")).filter(has).collect();
    let [node] = &nodes[..] else { panic!("{nodes:?} have the connection to port {port}") };
    node.clone()
}

fn programs_work_through_translation_and_outlive_a_node() {
    let standing = Standing::bare("programs", NODES, &["--snat"]);
    let rule =
        "[[rule]]\naction = \"drop\"\nprotocol = \"tcp\"\ndestination_ports = \"81\"\n\n[[rule]]";
    for node in ["n1", "n2", "n3"] {
        standing.edit(node, |text| text.replacen("[[rule]]", rule, 1));
        standing.order("start", node);
    }
    standing.await_owners(&[1, 2, 3]);
    let mut programs = Programs::new(&standing);
    programs.serve_all(&standing);
    standing.until("the shell's server listens", || {
        client(&standing, "ssh-keyscan", &["-T", "2", "10.20.2.1"]).stdout.len() > 40
    });
    every_program(&standing, &programs);
    let seen = programs.visitors();
    assert!(
        seen.len() > 20 && seen.iter().all(|from| CLUSTER.contains(&from.as_str())),
        "{seen:?}"
    );

    // Flows that are over stay for a while; the shell's is one of them that is not.
    let mut shell = Shell::open(&standing, &programs, "10.20.2.1");
    assert_eq!(shell.say("before"), "heard before");
    let transfer = {
        let arguments = ["-J", "-c", "10.20.2.1", "-t", "10", "-P", "8"];
        let mut command = Command::new("iperf3");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        standing.inside("client", || command.spawn()).expect("start iperf3")
    };
    thread::sleep(Duration::from_secs(3));
    let node = owner(&standing, 22);
    let left: Vec<u8> = (1..=NODES).filter(|other| format!("n{other}") != node).collect();
    standing.order("kill", &node);
    assert_eq!(shell.say("after"), "heard after", "{node} has died");
    standing.await_owners(&left);
    let output = transfer.wait_with_output().expect("iperf3 ends");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}");
    let bytes = received(&report);
    assert!(bytes > 10_000_000, "{bytes} bytes in ten seconds, one of them with a death");
    every_program(&standing, &programs);
    let seen = programs.visitors();
    assert!(seen.iter().all(|from| CLUSTER.contains(&from.as_str())), "{seen:?}");
    for node in left {
        assert_eq!(standing.counter(&format!("n{node}"), "drop.internal"), 0);
    }
}

fn main() -> ExitCode {
    let tests: [(&str, fn()); 1] = [(
        "programs_work_through_translation_and_outlive_a_node",
        programs_work_through_translation_and_outlive_a_node,
    )];
    programs::run_with(
        &tests,
        &[
            ("/usr/sbin/nginx", "-v", "nginx-light"),
            ("curl", "--version", "curl"),
            ("iperf3", "--version", "iperf3"),
            ("ssh", "-V", "openssh-client"),
            ("/usr/sbin/sshd", "-t", "openssh-server"),
            ("dnsmasq", "--version", "dnsmasq-base"),
            ("dig", "-v", "bind9-dnsutils"),
            ("ping", "-V", "iputils-ping"),
        ],
    )
}
