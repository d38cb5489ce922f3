// Images wait here: some at a time are inspected, the rest in the order they came.

const AT_A_TIME = 2;

export class Queue {
  /** `work(item)` is asynchronous and never fails; `changed()` is called at every step. */
  constructor(work, changed) {
    this.work = work;
    this.changed = changed;
    this.waiting = [];
    this.active = 0;
    this.asked = 0; // since it was last empty
  }

  get done() {
    return this.asked - this.waiting.length - this.active;
  }

  get idle() {
    return this.active === 0 && this.waiting.length === 0;
  }

  add(items) {
    if (this.idle) this.asked = 0;
    this.asked += items.length;
    this.waiting.push(...items);
    this.#next();
  }

  /** Drop those whose turn has not come. */
  stop() {
    this.asked -= this.waiting.length;
    this.waiting = [];
    this.changed();
  }

  #next() {
    while (this.active < AT_A_TIME && this.waiting.length) {
      this.active += 1;
      this.work(this.waiting.shift()).finally(() => {
        this.active -= 1;
        this.#next();
      });
    }
    this.changed();
  }
}
