package config

import "testing"

// BenchmarkParse is what a start of Orthanc and each check pays.
func BenchmarkParse(b *testing.B) {
	text := []byte(withServer(``, ``))
	for b.Loop() {
		if _, err := Parse(text, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
