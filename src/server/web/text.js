// A model's text as elements: code blocks, headings, and paragraphs with `code` and **bold**. What
// the model wrote only ever becomes text nodes, never markup.

export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// [{kind, text}], in order. An open code block reaches to the end.
export function blocksOf(text) {
  const blocks = [];
  let lines = [];
  let fence = null;
  const close = (kind) => {
    const body = kind === "code" ? lines.join("\n") : lines.join("\n").trim();
    if (body || kind === "code") blocks.push({ kind, text: body });
    lines = [];
  };
  for (const line of text.split("\n")) {
    const mark = line.match(/^\s*(```+|~~~+)/)?.[1];
    if (fence !== null) {
      if (mark?.startsWith(fence) && line.trim() === mark) {
        close("code");
        fence = null;
      } else {
        lines.push(line);
      }
    } else if (mark) {
      close("p");
      fence = mark;
    } else if (line.trim() === "") {
      close("p");
    } else if (/^#{1,6} /.test(line)) {
      close("p");
      lines.push(line.replace(/^#+ /, ""));
      close("h3");
    } else {
      lines.push(line);
    }
  }
  close(fence === null ? "p" : "code");
  return blocks;
}

function inline(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).filter(Boolean).map((part) => {
    if (/^`[^`]+`$/.test(part)) return element("code", {}, part.slice(1, -1));
    if (/^\*\*[^*]+\*\*$/.test(part)) return element("strong", {}, part.slice(2, -2));
    return document.createTextNode(part);
  });
}

function render({ kind, text }) {
  if (kind === "code") return element("pre", { tabindex: "0" }, element("code", {}, text));
  return element(kind, {}, ...inline(text));
}

// Shows `text` in `parent`, keeping the elements of blocks that are as they were. `shown` is what
// the last call returned.
export function showText(parent, text, shown = []) {
  const blocks = blocksOf(text);
  blocks.forEach((block, i) => {
    const old = shown[i];
    if (old && old.kind === block.kind && old.text === block.text) return;
    const node = render(block);
    if (parent.children[i]) parent.children[i].replaceWith(node);
    else parent.append(node);
  });
  while (parent.children.length > blocks.length) parent.lastElementChild.remove();
  return blocks;
}
