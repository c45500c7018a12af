package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// result is what one command line did.
type result struct {
	code        int
	out, errOut string
}

func command(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	code := run(args, strings.NewReader(stdin), &out, &errOut)
	return result{code, out.String(), errOut.String()}
}

func expect(t *testing.T, got, want result) {
	t.Helper()
	if got != want {
		t.Errorf("got code %d\nout:\n%s\nerr:\n%s\nwant code %d\nout:\n%s\nerr:\n%s",
			got.code, got.out, got.errOut, want.code, want.out, want.errOut)
	}
}

const goodFile = `{"DicomWebOAuth": {"Servers": {"pacs": {
	"Url": "https://dicom.example.com/", "TokenEndpoint": "https://idp.example.com/token",
	"ClientId": "orthanc", "ClientSecret": "canary-0123456789-canary"}}}}`

func TestCheck_PrintsWhatIsInEffect(t *testing.T) {
	got := command(t, goodFile, "check", "-")
	const want = `warning: DicomWebOAuth: is the old place of this section; move it to "DicomWeb.OAuth"
-: ok, 1 server, 1 warning
`
	if got.code != exitOK || got.errOut != want {
		t.Errorf("code %d, standard error\n%s\nwant\n%s", got.code, got.errOut, want)
	}
	again := command(t, got.out, "check", "-")
	if again.code != exitOK || again.out != got.out || again.errOut != "warning: DicomWeb.OAuth.Servers[0] \"pacs\": ClientSecret: the client secret has fewer than 20 characters; whoever reads the shared cache could guess it\n-: ok, 1 server, 1 warning\n" {
		t.Errorf("the output is no configuration: code %d\n%s\n%s", again.code, again.errOut, again.out)
	}
}

func TestCheck_SaysEverythingThatIsWrong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "orthanc.json")
	text := strings.Replace(goodFile, `"ClientId"`, `"Clientid"`, 1)
	if err := os.WriteFile(path, []byte(strings.Replace(text, "DicomWebOAuth\": {", "DicomWebOAuth\": {\"Proxy\": 5, ", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, command(t, "", "check", path), result{exitFailed, "", `warning: DicomWebOAuth: is the old place of this section; move it to "DicomWeb.OAuth"
error: DicomWebOAuth.Proxy: found 5; allowed: an object
error: DicomWebOAuth.Servers "pacs": unknown key "Clientid", did you mean "ClientId"?
` + path + ": 2 errors\n"})
}

func TestCheck_JSONHasThePartsOfEachMessage(t *testing.T) {
	got := command(t, `{"Servers": {"pacs": {"Url": 5}}}`, "check", "--json", "-")
	expect(t, got, result{exitFailed, `{
  "file": "-",
  "ok": false,
  "errors": [
    {
      "code": "CFG-002",
      "path": "Servers",
      "server": "pacs",
      "key": "Url",
      "message": "found 5; allowed: an absolute http or https URL without user, query or fragment",
      "text": "Servers \"pacs\": Url: found 5; allowed: an absolute http or https URL without user, query or fragment"
    }
  ],
  "warnings": []
}
`, ""})

	var report checkReport
	if err := json.Unmarshal([]byte(command(t, goodFile, "check", "--json", "-").out), &report); err != nil || !report.OK || report.Configuration == nil {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestCheck_SidecarDemandsCredentials(t *testing.T) {
	got := command(t, goodFile, "check", "--sidecar", "-")
	if got.code != exitFailed || !strings.Contains(got.errOut, "UsersFile: is missing") || !strings.Contains(got.errOut, "AdminTokenFile: is missing") {
		t.Errorf("code %d\n%s", got.code, got.errOut)
	}
}

func TestCheck_NamesVariablesThatAreNotSet(t *testing.T) {
	t.Setenv("ORTHANC_OAUTH_TEST_ID", "id")
	text := strings.Replace(goodFile, "canary-0123456789-canary", "${ORTHANC_OAUTH_TEST_UNSET}", 1)
	got := command(t, strings.Replace(text, `"orthanc"`, `"${ORTHANC_OAUTH_TEST_ID}"`, 1), "check", "-")
	const want = `error: DicomWebOAuth.Servers "pacs": ClientSecret: environment variable "ORTHANC_OAUTH_TEST_UNSET" is not set; set it, or write ${ORTHANC_OAUTH_TEST_UNSET:-default}`
	if got.code != exitFailed || !strings.Contains(got.errOut, want) {
		t.Errorf("code %d\n%s\nwant\n%s", got.code, got.errOut, want)
	}
}

func TestCheck_FileThatIsNotThere(t *testing.T) {
	expect(t, command(t, "", "check", "/nowhere/orthanc.json"),
		result{exitFailed, "", "error: read configuration: \"/nowhere/orthanc.json\": no such file or directory\n"})
}

func TestKeygen_MakesKeysThatCheckAccepts(t *testing.T) {
	first, second := command(t, "", "keygen"), command(t, "", "keygen")
	if first.code != exitOK || first.out == second.out {
		t.Fatalf("%+v, then %+v", first, second)
	}
	key := strings.TrimSpace(first.out)
	if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) != keyBytes {
		t.Errorf("%q: %v", key, err)
	}
	gossip := `"CacheBackend": "gossip", "Gossip": {"Peers": ["a"], "SecretKey": "` + key + `"}, "Servers"`
	if got := command(t, strings.Replace(goodFile, `"Servers"`, gossip, 1), "check", "-"); got.code != exitOK || strings.Contains(got.out, key) {
		t.Errorf("code %d\n%s\n%s", got.code, got.out, got.errOut)
	}
}

func TestKeygen_NeverOverwritesAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	expect(t, command(t, "", "keygen", "--output", path), result{exitOK, "", ""})
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	expect(t, command(t, "", "keygen", "-o", path), result{exitFailed, "", "error: write key: open " + path + ": file exists\n"})
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key changed: %v", err)
	}
}

func TestKeygen_JSON(t *testing.T) {
	var got struct{ Key string }
	if err := json.Unmarshal([]byte(command(t, "", "keygen", "--json").out), &got); err != nil || len(got.Key) != 44 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestVersion(t *testing.T) {
	if got := command(t, "", "version"); got.code != exitOK || !strings.HasPrefix(got.out, "orthanc-oauth dev") {
		t.Errorf("%+v", got)
	}
	var info buildInfo
	if err := json.Unmarshal([]byte(command(t, "", "version", "--json").out), &info); err != nil || info.Version == "" || info.Go == "" {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestSchema_IsJSON(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal([]byte(command(t, "", "schema").out), &schema); err != nil || schema["$schema"] != "https://json-schema.org/draft/2020-12/schema" {
		t.Errorf("%v, %v", schema["$schema"], err)
	}
}

func TestRun_UsageErrorsNameTheHelp(t *testing.T) {
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"chekc"}, "error: unknown command \"chekc\" for \"orthanc-oauth\"\n\nDid you mean this?\n\tcheck\n\nSee: orthanc-oauth --help\n"},
		{[]string{"check"}, "error: accepts 1 arg(s), received 0\nSee: orthanc-oauth check --help\n"},
		{[]string{"keygen", "--jsn"}, "error: unknown flag: --jsn\nSee: orthanc-oauth keygen --help\n"},
	}
	for _, tt := range tests {
		expect(t, command(t, "", tt.args...), result{exitUsage, "", tt.want})
	}
}

func TestRun_WithoutArgumentsHelps(t *testing.T) {
	got := command(t, "")
	if got.code != exitOK || !strings.Contains(got.out, "Examples:") || !strings.Contains(got.out, "check") {
		t.Errorf("%+v", got)
	}
}

func TestCompletion_WorksForEveryShell(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if got := command(t, "", "completion", shell); got.code != exitOK || !strings.Contains(got.out, "orthanc-oauth") {
			t.Errorf("%s: code %d, %s", shell, got.code, got.errOut)
		}
	}
	if got := command(t, "", "__complete", "check", ""); !strings.HasPrefix(got.out, "json\n:8") {
		t.Errorf("check completes %q", got.out)
	}
}

// TestHelp_TeachesByExample holds every command to an example and a sentence.
func TestHelp_TeachesByExample(t *testing.T) {
	root, _ := newRootCommand()
	for _, cmd := range append([]*cobra.Command{root}, root.Commands()...) {
		if cmd.Short == "" || cmd.Example == "" && !cmd.Hidden {
			t.Errorf("%s: short %q, example %q", cmd.Name(), cmd.Short, cmd.Example)
		}
	}
}
