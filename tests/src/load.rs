//! Load for benchmarks: connections that stay open and ask one request after the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// What is asked, made up by who asks.
pub type Requests = Arc<dyn Fn(&mut Random) -> String + Send + Sync>;

/// So many requests over so many connections; requests in a second, and the time of each.
///
/// # Panics
/// When an answer is no success.
pub async fn load(
    address: SocketAddr,
    connections: usize,
    requests: usize,
    make: Requests,
) -> (f64, Vec<Duration>) {
    let began = Instant::now();
    let all = (0..connections).map(|at| {
        let random = Random(0x9e37_79b9_7f4a_7c15 ^ (at as u64 + 1) << 32);
        tokio::spawn(connection(address, requests / connections, random, Arc::clone(&make)))
    });
    let mut times = Vec::with_capacity(requests);
    for connection in all.collect::<Vec<_>>() {
        times.extend(connection.await.expect("it asks to the end"));
    }
    (times.len() as f64 / began.elapsed().as_secs_f64(), times)
}

async fn connection(
    address: SocketAddr,
    requests: usize,
    mut random: Random,
    make: Requests,
) -> Vec<Duration> {
    let stream = TcpStream::connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("a TCP connection");
    let mut stream = BufReader::with_capacity(64 * 1024, stream);
    let mut times = Vec::with_capacity(requests);
    for _ in 0..requests {
        let request = make(&mut random);
        let asked = Instant::now();
        stream.write_all(request.as_bytes()).await.expect("it reads");
        answer(&mut stream).await;
        times.push(asked.elapsed());
    }
    times
}

/// Reads an answer to its end.
async fn answer(stream: &mut BufReader<TcpStream>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = stream.read_line(&mut head).await.expect("it answers");
        assert!(read > 0, "it hung up: {head}");
    }
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let length = length.parse().expect("a number");
    let read = tokio::io::copy(&mut stream.take(length), &mut tokio::io::sink()).await.expect("a body");
    assert_eq!(read, length);
}

/// A few random numbers for little time: SplitMix64.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// One below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % end as u64) as usize
    }
}

/// The processor time that a process has used.
///
/// # Panics
/// When it does not run.
pub fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // After the name, which may hold spaces: state, then what the manual page counts from 4.
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
    let ticks: u64 = fields[11..=12].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
