package proxy

import (
	"hash"
	"hash/crc32"
	"io"
)

func newChecksum() hash.Hash32 { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }

// pattern is a body of n bytes that does not repeat within a buffer, and knows
// the checksum of what has been read.
type pattern struct {
	left int64
	x    uint64
	sum  hash.Hash32
}

func newPattern(n int64) *pattern { return &pattern{left: n, x: 88172645463325252, sum: newChecksum()} }

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), p.left)]
	for i := range b {
		if i%8 == 0 { // xorshift
			p.x ^= p.x << 13
			p.x ^= p.x >> 7
			p.x ^= p.x << 17
		}
		b[i] = byte(p.x >> (8 * (i % 8)))
	}
	p.left -= int64(len(b))
	p.sum.Write(b)
	return len(b), nil
}
