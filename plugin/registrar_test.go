package main

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var wanted = map[string]dicomWebServer{
	"pacs":    {URL: "http://127.0.0.1:4711/pacs/", Username: userPrefix + "NOW", Password: "canary", Timeout: 3600},
	"archive": {URL: "http://127.0.0.1:4711/archive/", Username: userPrefix + "NOW", Password: "canary", Timeout: 3600},
}

// inBubble runs a registration against o in virtual time, then story, then ends
// the registration.
func inBubble(t *testing.T, o *fakeOrthanc, story func(r *registrar)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		r := newRegistrar(o, newLogger(o, slog.LevelDebug), "/dicom-web/", wanted)
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.Run(stop)
		}()
		story(r)
		close(stop)
		<-done
	})
}

func requireRegistered(t *testing.T, o *fakeOrthanc) {
	t.Helper()
	found := o.registered()
	for name, want := range wanted {
		if !want.matches(found[name]) {
			t.Errorf("server %q reads back as %+v, want %+v", name, found[name], want)
		}
	}
}

func TestRun_SurvivesTheReloadOfTheDICOMwebPlugin(t *testing.T) {
	for _, after := range []time.Duration{time.Millisecond, 50 * time.Millisecond, time.Second, 1990 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			o := newFakeOrthanc()
			inBubble(t, o, func(*registrar) {
				time.Sleep(after)
				o.reload(nil)
				time.Sleep(2 * settlePause)
				requireRegistered(t, o)
			})
		})
	}
}

func TestRun_SettlesAndThenLooksEvery30Seconds(t *testing.T) {
	o := newFakeOrthanc()
	inBubble(t, o, func(*registrar) {
		time.Sleep(3 * time.Second)
		settled, puts := o.counts()
		if puts != len(wanted) {
			t.Errorf("%d PUTs to register %d servers", puts, len(wanted))
		}
		time.Sleep(10 * reconcilePause)
		gets, puts := o.counts()
		if gets-settled != 10 || puts != len(wanted) {
			t.Errorf("in 5 minutes at rest: %d looks and %d PUTs, want 10 and 0", gets-settled, puts-len(wanted))
		}
	})
	if lines := o.logged("registered"); len(lines) != 1 {
		t.Errorf("said %d times that the servers are registered: %q", len(lines), lines)
	}
}

func TestRun_RestoresWhatSomebodyDeletedOrChanged(t *testing.T) {
	o := newFakeOrthanc()
	inBubble(t, o, func(*registrar) {
		time.Sleep(5 * time.Second)
		o.set(func(o *fakeOrthanc) {
			delete(o.servers, "pacs")
			s := o.servers["archive"]
			s.Timeout = 60
			o.servers["archive"] = s
		})
		time.Sleep(reconcilePause)
		requireRegistered(t, o)
	})
}

func TestRun_ReplacesADeadProcessesServerOfTheSameNameSilently(t *testing.T) {
	o := newFakeOrthanc()
	o.servers["pacs"] = dicomWebServer{URL: "http://127.0.0.1:99/pacs/", Username: userPrefix + "OLD", Timeout: 3600}
	inBubble(t, o, func(*registrar) {
		time.Sleep(time.Second)
		requireRegistered(t, o)
	})
	if lines := o.logged("replaces"); len(lines) != 0 {
		t.Errorf("warned about a server of our own: %q", lines)
	}
}

func TestRun_SaysOnceThatItReplacesAConfiguredServer(t *testing.T) {
	o := newFakeOrthanc()
	configured := map[string]dicomWebServer{"pacs": {URL: "https://user:canary@pacs.example/dicom-web/?token=canary"}}
	o.reload(configured)
	inBubble(t, o, func(*registrar) {
		time.Sleep(time.Second)
		o.reload(configured)
		time.Sleep(time.Second)
		requireRegistered(t, o)
	})
	lines := o.logged("replaces")
	if len(lines) != 1 || !strings.Contains(lines[0], "https://pacs.example/dicom-web/") {
		t.Errorf("warnings: %q, want one that names the URL", lines)
	}
	if lines := o.logged("canary"); len(lines) != 0 {
		t.Errorf("credentials logged: %q", lines)
	}
}

func TestRun_DeletesWhatAKilledProcessLeftAndNothingElse(t *testing.T) {
	o := newFakeOrthanc()
	o.servers["gone"] = dicomWebServer{URL: "http://127.0.0.1:99/gone/", Username: userPrefix + "OLD"}
	o.servers["remote"] = dicomWebServer{URL: "https://pacs.example/", Username: userPrefix + "theirs"}
	o.servers["local"] = dicomWebServer{URL: "http://127.0.0.1:8080/", Username: "somebody"}
	inBubble(t, o, func(*registrar) { time.Sleep(time.Second) })
	found := o.registered()
	if _, ok := found["gone"]; ok {
		t.Error("the server of a killed process is still there")
	}
	if len(found) != len(wanted)+2 {
		t.Errorf("servers: %v, want the two of others to stay", found)
	}
}

func TestRun_SaysOnceThatTheDICOMwebPluginIsMissingAndGoesOn(t *testing.T) {
	o := newFakeOrthanc()
	o.absent = true
	inBubble(t, o, func(*registrar) {
		time.Sleep(absentAfter - time.Second)
		if lines := o.logged("WARN"); len(lines) != 0 {
			t.Errorf("warned while it may still be starting: %q", lines)
		}
		time.Sleep(time.Second + time.Millisecond)
		before, _ := o.counts()
		time.Sleep(time.Minute)
		after, _ := o.counts()
		if after-before > 61 {
			t.Errorf("%d looks in a minute, want at most one a second", after-before)
		}
		o.set(func(o *fakeOrthanc) { o.absent = false })
		time.Sleep(2 * absentPause)
		requireRegistered(t, o)
	})
	if lines := o.logged("is the DICOMweb plugin loaded"); len(lines) != 1 {
		t.Errorf("warnings: %q, want one", lines)
	}
}

func TestRun_AFailedPutIsTriedAgain(t *testing.T) {
	o := newFakeOrthanc()
	o.failPut = true
	inBubble(t, o, func(*registrar) {
		time.Sleep(3 * time.Second)
		o.set(func(o *fakeOrthanc) { o.failPut = false })
		time.Sleep(2 * settlePause)
		requireRegistered(t, o)
	})
}

func TestRemove_LeavesWhatSomebodyElsePutMeanwhile(t *testing.T) {
	o := newFakeOrthanc()
	var r *registrar
	inBubble(t, o, func(running *registrar) {
		r = running
		time.Sleep(time.Second)
	})
	o.servers["pacs"] = dicomWebServer{URL: "https://pacs.example/"}
	if err := r.Remove(); err != nil {
		t.Fatal(err)
	}
	if found := o.registered(); len(found) != 1 || found["pacs"].URL == "" {
		t.Errorf("after removal: %v, want the stranger's only", found)
	}
}

func TestNewRegistrar_TakesEverySpellingOfTheRoot(t *testing.T) {
	for root, want := range map[string]string{
		"/dicom-web/": "/dicom-web/servers", "dicom-web": "/dicom-web/servers", "/": "/servers", "": "/servers",
		"/a/b": "/a/b/servers",
	} {
		if got := newRegistrar(nil, nil, root, nil).uri; got != want {
			t.Errorf("root %q gives %q, want %q", root, got, want)
		}
	}
}
