package config

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRead_MergesAFolderAsOrthancDoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "orthanc[1]")
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("dicomweb.json", "// comment\n"+`{"DicomWeb": {"Root": "/dw/", "OAuth": {"Servers": {"pacs": {`+aServer+`}}}}}`)
	write("orthanc.json", `{"Name": "a <b>", "HttpsVerifyPeers": false,}`)
	write("notes.txt", `{`)
	write("sub/dicomweb.json", `{"DicomWeb": {}}`)

	raw, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := parse(t, string(raw), Options{})
	if len(cfg.Servers) != 1 || cfg.Orthanc.DicomWebRoot != "/dw/" || cfg.Orthanc.HTTPSVerifyPeers {
		t.Errorf("%+v", cfg)
	}

	write("z.json", `{"DicomWeb": {}}`)
	_, err = Read(dir)
	want := `key "DicomWeb" stands in "` + dir + `/dicomweb.json" and in "` + dir + `/z.json"; Orthanc takes it from one file only`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	write("z.json", `{`)
	_, err = Read(dir)
	if want := `file "` + dir + `/z.json": malformed JSON at line 1, column 1: unexpected end of JSON input`; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestRead_FilesAreTakenAsTheyAre(t *testing.T) {
	path := writeFile(t, "orthanc.json", "// as it is")
	if raw, err := Read(path); err != nil || string(raw) != "// as it is" {
		t.Errorf("%q, %v", raw, err)
	}
	dir := t.TempDir()
	for path, want := range map[string]string{
		dir + "/none": `"` + dir + `/none": no such file or directory`,
		dir:           `folder "` + dir + `" holds 0 *.json files; allowed: 1 to 256`,
	} {
		if _, err := Read(path); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}
