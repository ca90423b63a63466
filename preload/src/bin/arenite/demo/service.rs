//! The service's process, seen from outside.

use crate::allocator::{self, Choice};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

/// A service that runs. It ends when this is dropped.
#[derive(Debug)]
pub struct Service {
    child: Child,
    address: SocketAddr,
}

impl Service {
    /// Starts a service on the given allocator.
    pub fn start(allocator: Choice) -> Result<Self> {
        let child = Command::new(std::env::current_exe().context("the command's own path")?)
            .arg("demo-server")
            .env(allocator::VARIABLE, allocator.name())
            // A preloaded library would be what the service takes for the system's.
            .env_remove("LD_PRELOAD")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the service does not start")?;
        let mut service = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let mut line = String::new();
        if let Some(output) = service.child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        match line.trim_end().split_once(' ') {
            Some((name, address)) if name == allocator.name() => {
                service.address = address.parse().context("the service's address")?;
            }
            _ => bail!("the service on {} did not start: {line:?}", allocator.title()),
        }
        Ok(service)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Fails if the service has ended, with how it ended.
    pub fn expect_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the service ended under load with {status}"),
        }
    }

    /// The most memory that the service ever had resident.
    pub fn peak_rss_bytes(&self) -> Result<u64> {
        self.status_bytes("VmHWM:")
    }

    /// The memory that the service has resident.
    pub fn rss_bytes(&self) -> Result<u64> {
        self.status_bytes("VmRSS:")
    }

    /// A figure of /proc/PID/status (proc(5)).
    fn status_bytes(&self, name: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .context("the service's memory")?;
        let kilobytes: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok())
            .with_context(|| format!("no {name} in the status of the service"))?;
        Ok(1024 * kilobytes)
    }

    /// Ends the service, and fails if it did not end well.
    pub fn stop(mut self) -> Result<()> {
        // The end of its input is the service's end.
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the service ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // After `stop` both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
