package redis

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestOptions_TableNamesWhatIsSet holds the table of docs/configuration.md to the
// one in the code: each option that is set is named, and no other is.
func TestOptions_TableNamesWhatIsSet(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "<!-- driver -->\n")
	table, _, found := strings.Cut(rest, "<!-- end -->")
	if !found {
		t.Fatal("no table of the driver's options")
	}
	o := Options{
		Addrs: []string{"h:1"}, DB: 1, Username: "u", Password: "p", MasterName: "m",
		SentinelUsername: "s", SentinelPassword: "q", DialTimeout: time.Second, ReadTimeout: time.Second,
	}
	// What client adds, one way or the other, where credentials can change.
	extra := []string{"StreamingCredentialsProvider", "CredentialsProviderContext", "ConnMaxLifetime"}
	u := reflect.ValueOf(*o.universal())
	for i := range u.NumField() {
		name := u.Type().Field(i).Name
		isSet := !u.Field(i).IsZero() || slices.Contains(extra, name)
		if named := strings.Contains(table, "`"+name+"`"); isSet && !named {
			t.Errorf("%s is set and not in the table", name)
		}
	}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		for i, name := range strings.Split(cells[2], "`") {
			if _, ok := u.Type().FieldByName(name); i%2 == 1 && !ok && !strings.HasPrefix(name, "New") && name != "sentinel" {
				t.Errorf("the driver has no option %s", name)
			}
		}
	}
}
