"""A page of HTML as its elements and its words."""

from html.parser import HTMLParser


class Tags(HTMLParser):
    """Keep all elements, the text outside of scripts and styles, and whether every element that is opened is closed in turn."""

    def __init__(self, html):
        super().__init__()
        self.found, self.words, self.open, self.wrong = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "hr", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]) and data.strip():
            self.words.append(data.strip())

    def named(self, name):
        return [attributes for tag, attributes in self.found if tag == name]

    @property
    def links(self):
        return [each[key] for _, each in self.found for key in ("src", "href") if key in each]
