// What a reader does with a report page; the results are left in an attribute of the document.
Element.prototype.setPointerCapture = () => {};
const get = (id) => document.getElementById(id);
const until = (test) => new Promise((done) => { const look = () => (test() ? done() : setTimeout(look, 50)); look(); });
const point = (target, type, x, y, more = {}) => {
  const box = target.getBoundingClientRect();
  target.dispatchEvent(new PointerEvent(type, { clientX: box.left + x, clientY: box.top + y, pointerId: 1, bubbles: true, ...more }));
};
const click = (target, x, y) => { point(target, "pointerdown", x, y); point(target, "pointerup", x, y); };
const pause = () => new Promise((done) => setTimeout(done, 300));
const changes = async (read, old) => {
  for (let k = 0; k < 20 && read() === old; k++) await pause();
  return read() !== old;
};
await until(() => document.documentElement.dataset.ready);
await pause();
const told = {};
const view = document.querySelector("#view .cameras");
const picture = () => document.querySelector("#view .points").toDataURL();
const before = picture();
point(view, "pointerdown", 100, 100); point(view, "pointermove", 160, 130); point(view, "pointermove", 220, 130); point(view, "pointerup", 220, 130);
told.orbits = await changes(picture, before);
await pause();
const turned = picture();
get("view").focus();
get("view").dispatchEvent(new WheelEvent("wheel", { deltaY: -100, cancelable: true }));
told.zooms = await changes(picture, turned);
await pause();
const plain = picture();
get("shading").value = "error"; get("shading").dispatchEvent(new Event("change"));
told.shades = await changes(picture, plain);
get("reset").click(); await pause();
const names = new Set(); const spots = new Set();
for (let y = 10; y < view.clientHeight; y += 6) for (let x = 10; x < view.clientWidth; x += 6) {
  click(view, x, y); names.add(get("photo-name").textContent); spots.add(get("point-figures").textContent);
}
told.cameras = names.size; told.spots = spots.size;
const heads = [...document.querySelectorAll("#table th button")];
heads[3].click();
const firsts = () => [...document.querySelectorAll("#table tbody tr")].map((row) => Number(row.children[3].textContent.replaceAll(",", "")));
told.sorts = firsts().every((value, k, all) => !k || all[k - 1] >= value);
heads[3].click();
told.sortsBack = firsts().every((value, k, all) => !k || all[k - 1] <= value);
document.querySelector("#table tbody tr .link").click();
told.name = get("photo-name").textContent === document.querySelector("#table tbody tr .link").textContent;
const shown = () => `${get("pair-a").value} ${get("pair-b").value}`;
const first = shown();
get("weaker").click();
told.steps = shown() !== first;
const matrix = get("matrix"); const box = matrix.getBoundingClientRect();
const at = shown();
matrix.dispatchEvent(new MouseEvent("click", { clientX: box.left + box.width - 4, clientY: box.top + box.height / 2 }));
told.matrix = shown() !== at;
document.documentElement.dataset.told = JSON.stringify(told);
