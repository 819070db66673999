"use strict";
// Everything a model or a person wrote reaches a page through textContent; there is no other way in.
function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

function said(name, text) {
  const element = make("div", "said " + name, text === "" ? "(empty)" : text);
  element.dir = "auto";
  return element;
}
