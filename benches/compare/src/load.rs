//! A client: one connection, one request after the other, the current tag carried along.

use std::{io, net::SocketAddr};

use tokio::task::JoinSet;

use crate::{
    connection::Connection,
    shape::{DIGITS, Shape, Tag},
};

/// A connection that is kept, for requests of one shape to one resource.
#[derive(Debug)]
pub(crate) struct Client {
    connection: Connection,
    request: Vec<u8>,
    tag_at: Option<usize>,
}

impl Client {
    /// One of a number of clients, for a resource of its own.
    pub(crate) fn new(to: SocketAddr, shape: Shape, number: usize) -> Self {
        Self::on(to, shape, &shape.path(number), number)
    }

    /// One of a number of clients.
    pub(crate) fn on(to: SocketAddr, shape: Shape, path: &str, number: usize) -> Self {
        let (request, tag_at) = shape.request(path);
        let room = if shape.is_large() { 256 * 1024 } else { 4 * 1024 };
        Self { connection: Connection::new(to, number, room), request, tag_at }
    }

    /// Connects, and reads what its writes are to replace.
    pub(crate) async fn prepare(&mut self) -> io::Result<()> {
        let path = self.request.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
        let read = [b"GET ", path, b" HTTP/1.1\r\nHost: api.example.com\r\n\r\n"].concat();
        self.connection.exchange(&read).await?;
        self.carry();
        Ok(())
    }

    /// Turns to another resource of the same shape, whose tag is this.
    pub(crate) fn aim(&mut self, resource: usize, tag: Tag) {
        let digits = format!("{resource:0width$}", width = DIGITS);
        if let Some(end) = self.request.windows(6).position(|window| window == b" HTTP/") {
            self.request[end - DIGITS..end].copy_from_slice(digits.as_bytes());
        }
        if let Some(at) = self.tag_at {
            self.request[at..at + tag.len()].copy_from_slice(&tag);
        }
    }

    /// The tag that its next write is to replace.
    pub(crate) fn tag(&self) -> Option<Tag> {
        self.request.get(self.tag_at?..)?.first_chunk().copied()
    }

    /// Sends the request, reads the answer, and returns its status.
    pub(crate) async fn request(&mut self) -> io::Result<u16> {
        let status = self.connection.exchange(&self.request).await?;
        self.carry();
        Ok(status)
    }

    fn carry(&mut self) {
        if let (Some(at), Some(digits)) = (self.tag_at, self.connection.tag().get(1..1 + size_of::<Tag>())) {
            self.request[at..at + digits.len()].copy_from_slice(digits);
        }
    }
}

/// So many requests by each of so many connections.
pub(crate) async fn drive(to: SocketAddr, shape: Shape, connections: usize, each: usize) -> io::Result<()> {
    let mut clients = JoinSet::new();
    for number in 0..connections {
        clients.spawn(async move {
            let mut client = Client::new(to, shape, number);
            client.prepare().await?;
            for _ in 0..each {
                shape.check(client.request().await?)?;
            }
            Ok(())
        });
    }
    all(clients).await
}

/// Waits for all of them, or for the first that fails.
pub(crate) async fn all(mut clients: JoinSet<io::Result<()>>) -> io::Result<()> {
    while let Some(done) = clients.join_next().await {
        done.map_err(io::Error::other)??;
    }
    Ok(())
}
