//! The clients: each has one connection, sends a request, checks the answer, and goes on.

use super::server::TTL;
use super::workload::{Operation, Workload};
use anyhow::{Context, Result, bail};
use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode};
use fastrand::Rng;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Latencies are kept in microseconds up to this many.
const LONGEST: u64 = 60_000_000;

/// What the clients saw.
#[derive(Debug)]
pub struct Outcome {
    /// Time that the load lasted.
    pub elapsed: Duration,
    /// Requests that were answered, by their latency in microseconds.
    pub latencies: Histogram<u64>,
    /// Requests that failed or brought a wrong answer.
    pub errors: u64,
    pub first_error: Option<String>,
}

impl Outcome {
    /// Nothing yet.
    pub fn new() -> Result<Self> {
        let latencies = Histogram::new_with_bounds(1, LONGEST, 3)?;
        Ok(Self { elapsed: Duration::ZERO, latencies, errors: 0, first_error: None })
    }

    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Adds what others saw, at the same time or in another round. The time is the caller's to add.
    pub fn add(&mut self, other: Self) -> Result<()> {
        self.latencies.add(other.latencies)?;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        Ok(())
    }
}

/// All clients, connected.
pub struct Clients {
    clients: Vec<Client>,
}

impl Clients {
    pub async fn connect(address: SocketAddr, count: u32, workload: Workload) -> Result<Self> {
        let mut clients = Vec::new();
        for index in 0..count {
            clients.push(Client::connect(address, index, workload.clone()).await?);
        }
        Ok(Self { clients })
    }

    /// Puts every key once, so that the load finds a full store.
    pub async fn fill(&mut self) -> Result<()> {
        let step = self.clients.len();
        self.all(move |mut client, index| async move {
            for key in (index..client.workload.keys()).step_by(step) {
                client.put(key).await.context("the store can not be filled")?;
            }
            client.outcome = Outcome::new()?;
            Ok(client)
        })
        .await
    }

    /// Keeps the service busy for so long.
    pub async fn load(mut self, length: Duration) -> Result<Outcome> {
        let start = Instant::now();
        self.all(move |mut client, _| async move {
            while start.elapsed() < length {
                client.step().await;
                if client.outcome.errors > 0 {
                    // After an error nothing is known about the connection.
                    break;
                }
            }
            Ok(client)
        })
        .await?;
        let elapsed = start.elapsed();
        let mut sum = Outcome::new()?;
        for client in self.clients {
            sum.add(client.outcome)?;
        }
        Ok(Outcome { elapsed, ..sum })
    }

    /// Lets all clients do the same at once.
    async fn all<F, T>(&mut self, work: F) -> Result<()>
    where
        F: Fn(Client, usize) -> T,
        T: Future<Output = Result<Client>> + Send + 'static,
    {
        let clients = self.clients.drain(..).enumerate();
        let tasks: Vec<_> =
            clients.map(|(index, client)| tokio::spawn(work(client, index))).collect();
        for task in tasks {
            self.clients.push(task.await??);
        }
        Ok(())
    }
}

struct Client {
    connection: SendRequest<Full<Bytes>>,
    workload: Workload,
    random: Rng,
    outcome: Outcome,
}

impl Client {
    async fn connect(address: SocketAddr, index: u32, workload: Workload) -> Result<Self> {
        let stream = TcpStream::connect(address).await.context("the service can not be reached")?;
        stream.set_nodelay(true)?;
        let (connection, driver) = handshake(TokioIo::new(stream)).await?;
        // Its errors come back with the request that they hit.
        tokio::spawn(driver);
        let random = workload.random(index);
        Ok(Self { connection, workload, random, outcome: Outcome::new()? })
    }

    /// One operation of the load. A value that is missing is put, as by users of a cache.
    async fn step(&mut self) {
        let key = self.workload.pick_key(&mut self.random);
        let done = match self.workload.pick_operation(&mut self.random) {
            Operation::Put => self.put(key).await,
            Operation::Delete => self.delete(key).await,
            Operation::Get => match self.get(key).await {
                Ok(true) => Ok(()),
                Ok(false) => self.put(key).await,
                Err(error) => Err(error),
            },
        };
        if let Err(error) = done {
            self.outcome.errors += 1;
            self.outcome.first_error.get_or_insert(format!("{error:#}"));
        }
    }

    async fn put(&mut self, key: usize) -> Result<()> {
        let value = self.workload.write(key);
        let ttl = self.workload.pick_ttl(&mut self.random);
        match self.request(Method::PUT, key, ttl, value).await? {
            (StatusCode::NO_CONTENT, _) => Ok(()),
            (status, _) => bail!("PUT of key {key}: {status}"),
        }
    }

    async fn delete(&mut self, key: usize) -> Result<()> {
        match self.request(Method::DELETE, key, Duration::ZERO, Vec::new()).await? {
            (StatusCode::NO_CONTENT | StatusCode::NOT_FOUND, _) => Ok(()),
            (status, _) => bail!("DELETE of key {key}: {status}"),
        }
    }

    /// Whether there was a value.
    async fn get(&mut self, key: usize) -> Result<bool> {
        match self.request(Method::GET, key, Duration::ZERO, Vec::new()).await? {
            (StatusCode::OK, value) => self.workload.check(key, &value).map(|()| true),
            (StatusCode::NOT_FOUND, _) => Ok(false),
            (status, _) => bail!("GET of key {key}: {status}"),
        }
    }

    async fn request(
        &mut self,
        method: Method,
        key: usize,
        ttl: Duration,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes)> {
        let mut request =
            Request::builder().method(method).uri(format!("/kv/{key}")).header("host", "localhost");
        if !ttl.is_zero() {
            request = request.header(TTL, ttl.as_millis().to_string());
        }
        let request = request.body(Full::from(body))?;
        let start = Instant::now();
        self.connection.ready().await?;
        let (head, body) = self.connection.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let latency = u64::try_from(start.elapsed().as_micros()).unwrap_or(LONGEST);
        self.outcome.latencies.saturating_record(latency);
        Ok((head.status, body))
    }
}
