package cluster

import "testing"

func TestParsePeer(t *testing.T) {
	tests := []struct {
		in   string
		want peer
		ok   bool
	}{
		{"10.0.0.1", peer{"10.0.0.1", 7946}, true},
		{"10.0.0.1:8000", peer{"10.0.0.1", 8000}, true},
		{" pacs.example.org ", peer{"pacs.example.org", 7946}, true},
		{"pacs:9", peer{"pacs", 9}, true},
		{"orthanc_1:9", peer{"orthanc_1", 9}, true},
		{"::1", peer{"::1", 7946}, true},
		{"[::1]", peer{"::1", 7946}, true},
		{"[2001:db8::1]:8000", peer{"2001:db8::1", 8000}, true},
		{"2001:db8::1", peer{"2001:db8::1", 7946}, true},
		{"", peer{}, false},
		{":7946", peer{}, false},
		{"pacs:", peer{}, false},
		{"pacs:0", peer{}, false},
		{"pacs:65536", peer{}, false},
		{"pacs:-1", peer{}, false},
		{"pacs:http", peer{}, false},
		{"[::1", peer{}, false},
		{"[::1]x", peer{}, false},
		{"[10.0.0.1]:1", peer{}, false},
		{"[pacs]:1", peer{}, false},
		{"a:b:c", peer{}, false},
		{"http://pacs:7946", peer{}, false},
		{"node/10.0.0.1", peer{}, false},
		{"a b", peer{}, false},
	}
	for _, tt := range tests {
		got, err := parsePeer(tt.in, 7946)
		if (err == nil) != tt.ok || tt.ok && got != tt.want {
			t.Errorf("%q: %+v, %v", tt.in, got, err)
		}
	}
}

func FuzzParsePeer(f *testing.F) {
	f.Add("[2001:db8::1]:8000")
	f.Add("pacs:9")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := parsePeer(s, 7946); err == nil && (p.host == "" || p.port == 0) {
			t.Fatalf("%q: %+v", s, p)
		}
	})
}
