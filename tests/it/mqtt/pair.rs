//! A device and a scripted broker with the edge between them, both in the test's hand.

use std::io::{ErrorKind, Read, Write};

use crate::world::mqtt::{
    Broker, BrokerSide, CONNACK, CONNECT, DeviceSide, Hello, Mqtt, PINGREQ, PINGRESP, PUBLISH,
    Packet, V5, V31, V311, message, properties, text,
};
use crate::world::{Client, Config, World};

pub const VERSIONS: [u8; 3] = [V31, V311, V5];

/// A session of which both ends are in the test's hand.
pub struct Pair {
    pub device: DeviceSide,
    pub broker: BrokerSide,
    level: u8,
}

/// What came until nobody had more to say.
#[derive(Debug)]
pub struct Told {
    /// Tokens, on `s/dat`.
    pub answers: Vec<Packet>,
    /// What else the device got.
    pub device: Vec<Packet>,
    /// What the broker got.
    pub broker: Vec<Packet>,
}

/// A world whose MQTT listener has a scripted broker behind it.
pub fn world(edit: impl FnOnce(&mut Config)) -> (World, Broker) {
    let broker = Broker::start();
    let world = World::with(|_, config| {
        config.mqtt(broker.address(), "");
        edit(config);
    });
    (world, broker)
}

impl Pair {
    /// acme's device, in the version `level`.
    #[track_caller]
    pub fn open(world: &World, broker: &Broker, level: u8) -> Pair {
        Pair::with(&world.acme_mqtt(), broker, &Hello::new(level, "acme-device-1"))
    }

    #[track_caller]
    pub fn with(client: &Client, broker: &Broker, hello: &Hello) -> Pair {
        let mut device = client.mqtt(hello.level);
        device.send(&hello.packet());
        let (side, connect) = broker.session(hello.level);
        assert_eq!(connect.kind(), CONNECT);
        let connack = device.receive();
        assert_eq!((connack.kind(), connack.body[1]), (CONNACK, 0), "{connack:?}");
        Pair { device, broker: side, level: hello.level }
    }

    /// Waits for so many tokens and until all that was said has arrived: further tokens that
    /// were under way would be among the answers.
    #[track_caller]
    pub fn told(&mut self, answers: usize) -> Told {
        let mut told = Told { answers: Vec::new(), device: Vec::new(), broker: Vec::new() };
        for _ in 0..2 {
            self.device.send(&Packet::new(PINGREQ << 4, []));
            told.broker.extend(self.broker.until_ping());
            let mut pinged = false;
            while !pinged || told.answers.len() < answers {
                let packet = self.device.receive();
                match packet.kind() {
                    PINGRESP => pinged = true,
                    PUBLISH if message(self.level, &packet).0 == "s/dat" => {
                        told.answers.push(packet);
                    }
                    _ => told.device.push(packet),
                }
            }
        }
        assert_eq!(told.answers.len(), answers, "{told:?}");
        told
    }

    /// The same where neither side is told anything but tokens.
    #[track_caller]
    pub fn only_answers(&mut self, answers: usize) -> Vec<Packet> {
        let told = self.told(answers);
        assert_eq!((&told.device[..], &told.broker[..]), (&[][..], &[][..]));
        told.answers
    }
}

/// The token of acme's device over HTTPS.
#[track_caller]
pub fn over_https(world: &World) -> String {
    world.acme_client().token().unwrap().access_token()
}

/// The token that an answer brings.
#[track_caller]
pub fn token(level: u8, answer: &Packet) -> String {
    let payload = String::from_utf8(message(level, answer).3).unwrap();
    payload.strip_prefix("71,").unwrap().to_owned()
}

/// A message with all that it may have. `flags`: DUP, QoS and RETAIN; `props`: of 5.0.
pub fn message_with(
    level: u8,
    flags: u8,
    topic: &str,
    id: u16,
    props: &[u8],
    payload: &[u8],
) -> Packet {
    let mut body = text(topic);
    if flags & 6 != 0 {
        body.extend(id.to_be_bytes());
    }
    if level == V5 {
        body.extend(properties(props));
    }
    body.extend(payload);
    Packet::new(PUBLISH << 4 | flags, body)
}

/// A packet of an id and, where it says more than success, a code.
pub fn receipt(first: u8, id: u16, code: Option<u8>) -> Packet {
    Packet::new(first, [id.to_be_bytes().to_vec(), code.into_iter().collect()].concat())
}

/// Everything until the other side closes; fails the test where it does not.
#[track_caller]
pub fn until_closed<S: Read + Write>(side: &mut Mqtt<S>) -> Vec<Packet> {
    let packets = side.rest();
    match side.stream.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
        other => panic!("the connection is still open: {other:?}, {packets:?}"),
    }
    packets
}
