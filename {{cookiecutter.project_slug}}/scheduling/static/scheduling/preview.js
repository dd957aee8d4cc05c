"use strict";

// Shows when a periodic task would run, each time that its form is changed.
(() => {
    const preview = document.getElementById("preview");
    const form = preview.closest("form");
    let asked = 0;
    let waiting;

    const show = async () => {
        const number = ++asked;
        const fields = new URLSearchParams(new FormData(form));
        fields.delete("csrfmiddlewaretoken");
        fields.set("pk", preview.dataset.pk);
        const answer = await fetch(`${preview.dataset.url}?${fields}`);
        const text = answer.ok ? await answer.text() : "";
        if (number === asked) {
            preview.innerHTML = text;
        }
    };

    // Django's admin tells of some changes through its jQuery only, such as a clicked date.
    window.django.jQuery(form).on("change input", () => {
        clearTimeout(waiting);
        waiting = setTimeout(show, 300);
    });
    show();
})();
