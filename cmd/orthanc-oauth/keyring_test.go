package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func prints(t *testing.T, r result) []string {
	t.Helper()
	if r.code != exitOK {
		t.Fatalf("code %d: %s", r.code, r.errOut)
	}
	var out []string
	if err := json.Unmarshal([]byte(r.out), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func keyFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "gossip.key")
	if got := command(t, "", "keygen", "--output", name); got.code != exitOK {
		t.Fatal(got.errOut)
	}
	return name
}

func TestKeyring_ReplacesAKeyInThreeSteps(t *testing.T) {
	ring, fresh := keyFile(t), keyFile(t)
	old := prints(t, command(t, "", "keyring", "show", ring, "--json"))
	for range 2 { // a step done twice changes nothing
		both := prints(t, command(t, "", "keyring", "add", ring, fresh, "--json"))
		if len(both) != 2 || both[0] != old[0] {
			t.Fatalf("after add: %v, want %s still in use", both, old[0])
		}
	}
	added := prints(t, command(t, "", "keyring", "show", ring, "--json"))[1]
	if got := command(t, "", "keyring", "remove", ring, old[0]); got.code != exitFailed || !strings.Contains(got.errOut, "in use") {
		t.Errorf("removing the key in use: code %d, %s", got.code, got.errOut)
	}
	if got := prints(t, command(t, "", "keyring", "use", ring, added, "--json")); got[0] != added || len(got) != 2 {
		t.Fatalf("after use: %v", got)
	}
	expect(t, command(t, "", "keyring", "remove", ring, old[0]), result{exitOK, added + "  in use\n", ""})
	if info, err := os.Stat(ring); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(ring), "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestKeyring_SaysWhatIsWrong(t *testing.T) {
	ring := keyFile(t)
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("canary-no-key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"show", bad}, "not a key"},
		{[]string{"add", ring, bad}, "not a key"},
		{[]string{"use", ring, "00000000"}, "no key with the fingerprint"},
		{[]string{"show", ring + ".missing"}, "no such file"},
	} {
		got := command(t, "", append([]string{"keyring"}, c.args...)...)
		if got.code != exitFailed || !strings.Contains(got.errOut, c.want) || strings.Contains(got.errOut, "canary") {
			t.Errorf("%v: code %d, %s", c.args, got.code, got.errOut)
		}
	}
}
