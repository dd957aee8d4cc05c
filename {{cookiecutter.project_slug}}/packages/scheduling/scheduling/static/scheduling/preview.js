"use strict";

// Shows the next due times of a periodic task after each change of its form.
(() => {
    const says_when = /^(interval|crontab|solar|clocked|one_off|(start_time|expires)_[01])$/;
    const preview = document.getElementById("preview");
    const form = preview.closest("form");
    let asked = 0;
    let waiting;

    const show = async () => {
        const number = ++asked;
        const given = [...new FormData(form)].filter(([name]) => says_when.test(name));
        const fields = new URLSearchParams(given);
        fields.set("pk", preview.dataset.pk);
        const answer = await fetch(`${preview.dataset.url}?${fields}`);
        const text = answer.ok ? await answer.text() : "";
        if (number === asked) {
            preview.innerHTML = text;
        }
    };

    // Django's admin reports some changes through its jQuery only, such as a clicked date.
    window.django.jQuery(form).on("change input", () => {
        clearTimeout(waiting);
        waiting = setTimeout(show, 300);
    });
    show();
})();
