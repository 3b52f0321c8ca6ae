//! Any frame of which every byte is at hand.

use crate::wire::{
    Action, Applications, Cancel, Changes, Close, Counts, Dedicate, Done, Goaway, HandedOver, Header, Hello, Kind,
    List, ListApplications, Open, OpenAs, OpenSession, Opened, Order, Output, OutputChunk, Ping, Pong, Processes,
    Refused, Request, Response, SessionOpened, Stats, StorageUsage, Stored, Transitions, Watch, WatchTransitions,
    Welcome, WireError,
};

/// A whole frame. Texts, rows and payloads lie where they were received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is documented at the type that it holds")]
pub enum Frame<'a> {
    Hello(Hello<'a>),
    Welcome(Welcome<'a>),
    Refused(Refused<'a>),
    Goaway(Goaway<'a>),
    Ping(Ping),
    Pong(Pong),
    Open(Open),
    Opened(Opened),
    Close(Close),
    Dedicate(Dedicate),
    HandedOver(HandedOver),
    OpenAs(OpenAs),
    Session(OpenSession),
    SessionOpened(SessionOpened),
    Request(Request, &'a [u8]),
    Response(Response, &'a [u8]),
    Cancel(Cancel),
    Order(Order),
    Done(Done),
    List(List),
    Processes(Processes<'a>),
    ListApplications(ListApplications),
    Applications(Applications<'a>),
    Output(Output),
    OutputChunk(OutputChunk<'a>),
    Stats(Stats<'a>),
    Counts(Counts<'a>),
    Watch(Watch),
    Changes(Changes<'a>),
    WatchTransitions(WatchTransitions),
    Transitions(Transitions<'a>),
    StorageUsage(StorageUsage),
    Stored(Stored<'a>),
    /// A frame of a later version that may be skipped.
    Skipped(&'a [u8]),
}

impl<'a> Frame<'a> {
    /// The frame with this header and everything that follows it in the frame.
    ///
    /// # Errors
    /// [`WireError`] that names the field that is wrong.
    pub fn parse(header: &Header, body: &'a [u8]) -> Result<Self, WireError> {
        let Some(kind) = header.kind else { return Ok(Self::Skipped(body)) };
        Ok(match kind {
            Kind::Hello => Self::Hello(Hello::parse(header, body)?),
            Kind::Welcome => Self::Welcome(Welcome::parse(header, body)?),
            Kind::Refused => Self::Refused(Refused::parse(header, body)?),
            Kind::Goaway => Self::Goaway(Goaway::parse(header, body)?),
            Kind::Ping => Self::Ping(Ping::parse(header, body)?),
            Kind::Pong => Self::Pong(Pong::parse(header, body)?),
            Kind::Open => Self::Open(Open::parse(header, body)?),
            Kind::Opened => Self::Opened(Opened::parse(header, body)?),
            Kind::Close => Self::Close(Close::parse(header, body)?),
            Kind::Dedicate => Self::Dedicate(Dedicate::parse(header, body)?),
            Kind::HandedOver => Self::HandedOver(HandedOver::parse(header, body)?),
            Kind::OpenAs => Self::OpenAs(OpenAs::parse(header, body)?),
            Kind::Session => Self::Session(OpenSession::parse(header, body)?),
            Kind::SessionOpened => Self::SessionOpened(SessionOpened::parse(header, body)?),
            Kind::Request => Request::parse(header, body).map(|(request, payload)| Self::Request(request, payload))?,
            Kind::Response => Response::parse(header, body).map(|(answer, payload)| Self::Response(answer, payload))?,
            Kind::Cancel => Self::Cancel(Cancel::parse(header, body)?),
            Kind::Create => Self::Order(Order::parse(Action::Create, header, body)?),
            Kind::Stop => Self::Order(Order::parse(Action::Stop, header, body)?),
            Kind::Restart => Self::Order(Order::parse(Action::Restart, header, body)?),
            Kind::Done => Self::Done(Done::parse(header, body)?),
            Kind::List => Self::List(List::parse(header, body)?),
            Kind::Processes => Self::Processes(Processes::parse(header, body)?),
            Kind::ListApplications => Self::ListApplications(ListApplications::parse(header, body)?),
            Kind::Applications => Self::Applications(Applications::parse(header, body)?),
            Kind::Output => Self::Output(Output::parse(header, body)?),
            Kind::OutputChunk => Self::OutputChunk(OutputChunk::parse(header, body)?),
            Kind::Stats => Self::Stats(Stats::parse(header, body)?),
            Kind::Counts => Self::Counts(Counts::parse(header, body)?),
            Kind::Watch => Self::Watch(Watch::parse(header, body)?),
            Kind::Changes => Self::Changes(Changes::parse(header, body)?),
            Kind::Swap => Self::Order(Order::parse(Action::Swap, header, body)?),
            Kind::Restore => Self::Order(Order::parse(Action::Restore, header, body)?),
            Kind::WatchTransitions => Self::WatchTransitions(WatchTransitions::parse(header, body)?),
            Kind::Transitions => Self::Transitions(Transitions::parse(header, body)?),
            Kind::StorageUsage => Self::StorageUsage(StorageUsage::parse(header, body)?),
            Kind::Stored => Self::Stored(Stored::parse(header, body)?),
        })
    }
}
