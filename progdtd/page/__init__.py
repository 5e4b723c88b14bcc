"""How does anybody see, in a browser, what a stream is?

Read `site/decoder.js` first: streams to pictures in JavaScript, on onnxruntime-web.
`site/worker.js` keeps it away from the page's own thread, `site/page.js` is what a visitor sees and
does.

`writer.py` writes a page as a folder that any web server can host, `others.py` makes the files of
other codecs beside ours, `engine.py` fetches onnxruntime-web, `server.py` shows a page on this
machine.
"""
