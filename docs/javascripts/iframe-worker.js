// The search runs in a worker, which browsers do not start from a file: there a frame does its work.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      const script = new URL(address, document.baseURI).href;
      frame.hidden = true;
      frame.srcdoc = `<script>postMessage = m => parent.dispatchEvent(new CustomEvent("${script}", {detail: m}))</script>
        <script src="${script}"></script>`;
      this.frame = frame;
      this.ready = new Promise(done => frame.addEventListener("load", done));
      addEventListener(script, event => {
        const message = new MessageEvent("message", { data: event.detail });
        this.dispatchEvent(message);
        this.onmessage?.(message);
      });
      const insert = () => document.body.append(frame);
      document.body ? insert() : addEventListener("DOMContentLoaded", insert);
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
