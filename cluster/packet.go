package cluster

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
)

// A sealed packet is version (1 byte), nonce (12), ciphertext, tag (16).
const (
	packetVersion  = 1
	nonceSize      = 12
	packetOverhead = 1 + nonceSize + 16
)

// packetData is authenticated with every packet, so that one cannot be taken
// for anything else sealed under a key of the ring.
var packetData = []byte{packetVersion, 'p', 'a', 'c', 'k', 'e', 't'}

// errPacket is why a packet was dropped; which packet is nobody's business.
var errPacket = errors.New("packet refused")

// sealPacket seals plain under the first key of the ring.
func (s *security) sealPacket(plain []byte) []byte {
	out := make([]byte, 1+nonceSize, packetOverhead+len(plain))
	out[0] = packetVersion
	rand.Read(out[1:]) // never fails
	return s.seal.Seal(out, out[1:1+nonceSize], plain, packetData)
}

// openPacket opens a packet sealed under any key of the ring, into scratch.
func (s *security) openPacket(scratch, sealed []byte) ([]byte, error) {
	if len(sealed) <= packetOverhead || sealed[0] != packetVersion {
		return nil, errPacket
	}
	for _, aead := range s.open {
		if plain, err := aead.Open(scratch[:0], sealed[1:1+nonceSize], sealed[1+nonceSize:], packetData); err == nil {
			return plain, nil
		}
	}
	return nil, errPacket
}

// memberlist's message types, as in its net.go.
const (
	msgPing         = 0
	msgIndirectPing = 1
	msgAck          = 2
	msgSuspect      = 3
	msgAlive        = 4
	msgDead         = 5
	msgPushPull     = 6
	msgCompound     = 7
	msgUser         = 8
	msgNack         = 11
	msgCRC          = 12
	msgError        = 13
)

// vetPacket lets through what a memberlist of our configuration sends: one
// message or a flat compound of them, perhaps behind a checksum. Compressed,
// encrypted, labelled and nested messages are what its decoders fail on.
func vetPacket(b []byte) error {
	if len(b) > 5 && b[0] == msgCRC {
		b = b[5:]
	}
	if len(b) < 2 {
		return fmt.Errorf("%w: too short", errPacket)
	}
	if b[0] != msgCompound {
		return vetSingle(b)
	}
	return vetCompound(b[1:])
}

func vetCompound(b []byte) error {
	count := int(b[0])
	lengths, rest := b[1:], b[1:]
	if len(rest) < 2*count {
		return fmt.Errorf("%w: compound cut short", errPacket)
	}
	rest = rest[2*count:]
	for i := range count {
		n := int(binary.BigEndian.Uint16(lengths[2*i:]))
		if n > len(rest) {
			return fmt.Errorf("%w: compound cut short", errPacket)
		}
		if err := vetSingle(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func vetSingle(b []byte) error {
	if len(b) == 0 {
		return fmt.Errorf("%w: empty message", errPacket)
	}
	switch b[0] {
	case msgPing, msgIndirectPing, msgAck, msgNack, msgSuspect, msgAlive, msgDead, msgUser:
		return nil
	default:
		return fmt.Errorf("%w: message type %d", errPacket, b[0])
	}
}
