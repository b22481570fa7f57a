// The page behind a sign-in link: sends its form, once.

document.forms[0].submit();
