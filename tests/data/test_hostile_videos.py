"""A video file cannot make FFmpeg open anything else: only its own content, in a format of the list, is read."""

from __future__ import annotations

import http.server
import threading
from fractions import Fraction
from pathlib import Path

import pytest
from irregular import KINDS, make_irregular
from PIL import Image

from radio import ImageError
from radio.cli import main
from radio.data.video import Frame, Video, describe_video, read_frames
from radio.drawing.video import write_frames

av = pytest.importorskip("av")

CODECS = {".webm": "libvpx-vp9", ".avi": "mpeg4", ".mpg": "mpeg2video", ".mpeg": "mpeg1video"}


def _write(path: Path, container: str | None = None, codec: str = "libx264") -> Path:
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(4):
            output.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 48), (60 * i, 0, 0)))))
        output.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def neighbors(tmp_path_factory) -> Path:
    """A folder with videos that a playlist might name."""
    folder = tmp_path_factory.mktemp("neighbors")
    _write(folder / "clip.ts", "mpegts")
    frames = (Frame(Image.new("RGB", (64, 48)), Fraction(i, 10)) for i in range(3))
    write_frames(folder / "clip.mp4", frames, Video(3, Fraction(10), Fraction(1, 10_000)))
    for i in range(3):
        Image.new("RGB", (64, 48)).save(folder / f"frame{i}.png")
    return folder


@pytest.fixture(scope="module")
def server():
    """Counts the requests that reach it."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{clip}\n#EXT-X-ENDLIST\n"
PLAYLISTS = {
    "hls": HLS,
    "hls master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{clip}\n",
    "ffconcat": "ffconcat version 1.0\nfile {clip}\n",
    "concat": "ffconcat version 1.0\nfile 'clip.mp4'\nfile '{clip}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
    'bandwidth="1"><BaseURL>{clip}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "asx": '<asx version="3.0"><entry><ref href="{clip}"/></entry></asx>',
    "imf": '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"/>',
    "rtsp reply": "RTSPtext\nrtsp://127.0.0.1/{clip}\n",
    "m3u": "{clip}\n",
    "subtitles": "1\n00:00:00,000 --> 00:00:01,000\nwords\n",
    "metadata": ";FFMETADATA1\ntitle=x\n",
    "lrc": "[00:01.00]words\n",
}


@pytest.mark.parametrize("target", ["neighbor", "absolute", "file:", "http", "concat:", "subfile"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_opens_nothing(kind, target, neighbors, server, monkeypatch):
    address, asked = server
    monkeypatch.chdir(neighbors)
    clip = {
        "neighbor": "clip.ts",
        "absolute": str(neighbors / "clip.ts"),
        "file:": f"file:{neighbors / 'clip.ts'}",
        "http": f"{address}/clip.ts",
        "concat:": "concat:clip.ts|clip.ts",
        "subfile": "subfile,,start,0,end,999,,:clip.ts",
    }[target]
    path = neighbors / "playlist.mp4"
    path.write_text(PLAYLISTS[kind].format(clip=clip))
    for read in (describe_video, lambda path: list(read_frames(path))):
        with pytest.raises(ImageError, match="none of the formats that are read"):
            read(path)
    assert asked == []


@pytest.mark.parametrize("name", ["frame%d.png", "frame*.png", "clip.mp4?", "concat:clip.mp4", "pipe:0"])
def test_a_name_is_a_name_and_no_pattern_or_protocol(name, neighbors, monkeypatch):
    monkeypatch.chdir(neighbors)
    with pytest.raises(FileNotFoundError, match="no video file"):
        describe_video(name)


def test_an_address_is_no_file(server, neighbors):
    address, asked = server
    with pytest.raises(FileNotFoundError):
        describe_video(f"{address}/clip.mp4")
    assert asked == []


def test_a_network_path_is_not_written_to(server, tmp_path, monkeypatch):
    """A relative path that FFmpeg would take for an address is a path."""
    address, asked = server
    monkeypatch.chdir(tmp_path)
    frames = [Frame(Image.new("RGB", (64, 48)), Fraction(0))]
    write_frames(address.replace("//", "/") + "/out.mp4", frames, Video(1, Fraction(10), Fraction(1, 10_000)))
    assert asked == [] and describe_video(tmp_path / address.replace("//", "/") / "out.mp4").frames == 1


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"])
def test_every_listed_kind_is_read_under_any_name(suffix, tmp_path):
    made = _write(tmp_path / f"clip{suffix}", codec=CODECS.get(suffix, "libx264"))
    assert describe_video(made).frames == 4
    other = made.rename(tmp_path / "clip.jpg")
    assert len(list(read_frames(other))) == 4


@pytest.mark.parametrize("kind", ["gif", "image2", "y4m", "nut", "wav", "srt"])
def test_other_formats_are_refused(kind, tmp_path):
    path = tmp_path / "clip.mp4"
    if kind == "gif":
        Image.new("RGB", (64, 48)).save(path, format="GIF")
    elif kind == "image2":
        Image.new("RGB", (64, 48)).save(path, format="PNG")
    elif kind == "y4m":
        path.write_bytes(b"YUV4MPEG2 W16 H16 F25:1 Ip A1:1 C420\nFRAME\n" + bytes(16 * 16 * 3 // 2))
    elif kind == "nut":
        _write(path, "nut", "mpeg4")
    elif kind == "wav":
        path.write_bytes(
            b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\0\0\0\0"
        )
    else:
        path.write_text("1\n00:00:00,000 --> 00:00:01,000\nwords\n")
    with pytest.raises(ImageError):
        describe_video(path)


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device", "folder", "long name", "zero"])
def test_only_regular_files(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "clip.mp4"
    if kind in KINDS:
        make_irregular(kind, path)
    elif kind == "long name":
        path = tmp_path / ("x" * 400 + ".mp4")
    else:
        path = tmp_path / "a\0b.mp4"
    with pytest.raises(ImageError, match="cannot read the video"):
        describe_video(path)


def test_the_command_refuses_a_playlist(neighbors, reference, tmp_path, capsys):
    path = tmp_path / "clip.mp4"
    path.write_text(f"ffconcat version 1.0\nfile {neighbors / 'clip.mp4'}\n")
    words = ["-m", str(reference / "v2_5" / "checkpoint.pth.tar"), "-o", str(tmp_path / "out.mp4")]
    assert main(["pca", str(path), *words]) == 1
    assert "none of the formats that are read" in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists()
