//! How many requests a REST API answers: a few connections that ask as fast as they are answered, for a few seconds.
//!
//! A connection is kept as long as the server keeps it. Patroni closes after each answer, as HTTP/1.0 does, and is asked again on a new one.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const CONNECTIONS: usize = 8;

/// Answers per second to `GET /primary`, all of which must be 200.
pub(crate) async fn requests_per_second(server: SocketAddr, span: Duration) -> Result<f64> {
    let began = Instant::now();
    let until = began + span;
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(ask_until(server, until));
    }
    let mut answered = 0_u32;
    while let Some(client) = clients.join_next().await {
        answered += client??;
    }
    Ok(f64::from(answered) / began.elapsed().as_secs_f64())
}

async fn ask_until(server: SocketAddr, until: Instant) -> Result<u32> {
    let mut answered = 0;
    let mut connection = None;
    while Instant::now() < until {
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => connect(server).await?,
        };
        // A server that does not answer must not keep the benchmark from ending.
        let keeps = timeout(Duration::from_secs(10), ask(&mut stream, server)).await.context("no answer to GET /primary")??;
        answered += 1;
        if keeps {
            connection = Some(stream);
        }
    }
    Ok(answered)
}

async fn connect(server: SocketAddr) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// Asks once and reads the whole answer. True: the connection can be used again.
async fn ask(stream: &mut BufReader<TcpStream>, server: SocketAddr) -> Result<bool> {
    stream.get_mut().write_all(format!("GET /primary HTTP/1.1\r\nHost: {server}\r\n\r\n").as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    ensure!(line.contains(" 200 "), "GET /primary was answered by {line:?}");
    let mut keeps = line.starts_with("HTTP/1.1");
    let mut length = None;
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            bail!("the answer ended within its headers");
        }
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = Some(value.trim().parse::<usize>()?);
        }
        keeps &= header != "connection: close";
    }
    match length {
        Some(length) => {
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
        }
        None => {
            stream.read_to_end(&mut Vec::new()).await?;
            keeps = false;
        }
    }
    Ok(keeps)
}
